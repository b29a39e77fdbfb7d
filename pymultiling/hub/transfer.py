"""Sets, statistics and tables to and from the Hugging Face Hub."""

from __future__ import annotations

import glob
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from pymultiling import __version__
from pymultiling.errors import HubError
from pymultiling.hub.card import make_card
from pymultiling.hub.errors import check_repo_id, hub_errors
from pymultiling.hub.publishing import CARD, own_and_others, public_record, publishable, published_files, read_record
from pymultiling.results.run import RECORD_FILE, versions


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Puts what a run wrote, or a folder of the library's safetensors files, into a model repository on the Hub.

    The repository is made where there is none. Its card, README.md, is made from run.json and the files. Of paths in
    run.json, and of the model's in the files, only the last part is published. Files of a former push that are not in
    the folder any more are deleted; files that are not of a push are left alone. A warning names what is not published.

    Args:
        folder: what a command wrote into --out; or any folder with sets, statistics or counts.
        repo_id: OWNER/NAME.
        private: for the owner alone to see; False: what the owner's settings say, public as a rule.
        revision: a branch, made where there is none; None: main.
        token: None: the one of `hf auth login`, or HF_TOKEN.
        message: the commit's.

    Returns:
        The URL of the commit.

    Raises:
        HubError: there is nothing to publish, the repository has files of others in the way or is public and should
            not be, or the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder}: no such folder; give one that a command wrote into --out")
    record = read_record(folder, str(folder))
    own, others = own_and_others(folder, record)
    if not own:
        raise HubError(f"{folder} has no files of pymultiling's: give a folder that a command wrote into --out")
    public = public_record(record or {"versions": versions()}, sorted([*own, CARD]))
    sources = {CARD: make_card(folder, public, repo_id, revision).encode(), RECORD_FILE: _json(public)}
    api = _api(token)
    with TemporaryDirectory() as scratch:
        sources |= {name: publishable(folder / name, public, Path(scratch)) for name in own}
        with hub_errors(repo_id, revision, "write"):
            _prepare(api, repo_id, private, revision)
            former = _former(api, repo_id, revision, sources, scratch)
            message = message or f"Upload with pymultiling {__version__}"
            done = api.create_commit(repo_id, _operations(sources, former), commit_message=message, revision=revision)
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        warnings.warn(
            f"not published, because it is no set, statistics, table or plot of a run: {', '.join(others[:3])}{more}",
            stacklevel=2,
        )
    return str(done.commit_url)


def pull_from_hub(
    repo_id: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Fetches what `push_to_hub` put on the Hub into the cache, and nothing else of the repository.

    Without a network it is what the cache has.

    Args:
        repo_id: OWNER/NAME.
        revision: a branch, a tag or a commit; None: main.
        token: None: the one of `hf auth login`, or HF_TOKEN, if there is any.
        cache_dir: None: the Hub's own.

    Returns:
        The folder, named by the commit, for `load_sets(folder / "neurons")`, `NeuronStatistics.load` and the others. It is
        the cache: copy it before you change it.

    Raises:
        HubError: there is no such repository, push did not make it, or the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    api = _api(token)
    with hub_errors(repo_id, revision, "read"):
        first = Path(
            api.snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=[RECORD_FILE])
        )
        files = published_files(first, repo_id)
        wanted = [glob.escape(name) for name in files]
        folder = Path(api.snapshot_download(repo_id, revision=first.name, cache_dir=cache_dir, allow_patterns=wanted))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise HubError(
            f"{repo_id} lacks {missing[0]}, which its {RECORD_FILE} lists: pull again with a network, or push again"
        )
    return folder


def _api(token: str | None):
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="pymultiling")


def _json(record: dict) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def _prepare(api, repo_id: str, private: bool, revision: str | None) -> None:
    """Makes the repository and the branch where they are not there."""
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise HubError(f"{repo_id} is public already: make it private in its settings, or give another name")
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _former(api, repo_id: str, revision: str | None, names: Iterable[str], scratch: str) -> set[str]:
    """The files of a former push that are still there; HubError where a name is taken by a file of another origin."""
    there = set(api.list_repo_files(repo_id, revision=revision))
    former = set()
    if RECORD_FILE in there:
        file = Path(api.hf_hub_download(repo_id, RECORD_FILE, revision=revision, cache_dir=scratch))
        former = there & set(published_files(file.parent, repo_id))
    taken = sorted(there.intersection(names) - former)
    if taken:
        raise HubError(f"{repo_id} has a {taken[0]} that is not of a push: give a new name, or delete it on the Hub")
    return former


def _operations(sources: dict[str, bytes | Path], former: set[str]) -> list:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(name, source) for name, source in sources.items()]
    return added + [CommitOperationDelete(name) for name in sorted(former - set(sources))]
