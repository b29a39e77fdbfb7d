"""Publishes sets, statistics and tables on the Hugging Face Hub, and downloads them."""

from __future__ import annotations

import glob
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pymultiling import __version__
from pymultiling.errors import HubError
from pymultiling.hub.card import make_card
from pymultiling.hub.errors import check_repo_id, hub_errors
from pymultiling.hub.publishing import (
    CARD,
    RunRecord,
    public_copy,
    public_record,
    published_files,
    read_record,
    split_files,
)
from pymultiling.results.run import RECORD_FILE, versions

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Publishes the results of a run, or a folder of the library's safetensors files, as a model repository on the Hub.

    The repository is created if it does not exist. Its card, README.md, is made from run.json and the files. Paths in
    run.json, and the model's path in the files, are reduced to their last part. Files of an earlier push that the
    folder does not have any more are deleted on the Hub. Files that no push wrote are left alone. A warning names the
    files of the folder that are not published.

    Args:
        folder: a folder that a command wrote with --out, or any folder with sets, statistics or counts.
        repo_id: the repository, OWNER/NAME.
        private: True: only the owner can see the repository. False: the owner's settings decide, which is usually
            public.
        revision: the branch, which is created if it does not exist; None: main.
        token: an access token; None: the one of `hf auth login`, or HF_TOKEN.
        message: the commit message; None: "Upload with pymultiling" and the version.

    Returns:
        The URL of the commit.

    Raises:
        HubError: the folder has nothing to publish; the repository has files of the same names that no push wrote; the
            repository is public, but private=True; or the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder}: no such folder; give one that a command wrote with --out")
    record = read_record(folder, str(folder))
    publishable, unpublishable = split_files(folder, record)
    if not publishable:
        raise HubError(f"{folder} has no files of pymultiling: give a folder that a command wrote with --out")
    public = public_record(record or {"versions": versions()}, sorted([*publishable, CARD]))
    sources: dict[str, bytes | Path] = {
        CARD: make_card(folder, public, repo_id, revision).encode(),
        RECORD_FILE: _encode_record(public),
    }
    api = _make_api(token)
    with TemporaryDirectory() as scratch:
        for name in publishable:
            sources[name] = public_copy(folder / name, public, Path(scratch))
        with hub_errors(repo_id, revision, "write"):
            _create_repository(api, repo_id, private, revision)
            previous = _previous_files(api, repo_id, revision, sources, scratch)
            message = message or f"Upload with pymultiling {__version__}"
            commit = api.create_commit(
                repo_id, _commit_operations(sources, previous), commit_message=message, revision=revision
            )
    if unpublishable:
        more = f" and {len(unpublishable) - 3} more" if len(unpublishable) > 3 else ""
        warnings.warn(
            "not published, because they are not sets, statistics, tables or plots of a run: "
            f"{', '.join(unpublishable[:3])}{more}",
            stacklevel=2,
        )
    return str(commit.commit_url)


def pull_from_hub(
    repo_id: str, *, revision: str | None = None, token: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """Downloads into the cache the files that `push_to_hub` published, and no other files of the repository.

    Without a network, the files in the cache are used.

    Args:
        repo_id: the repository, OWNER/NAME.
        revision: a branch, a tag or a commit; None: main.
        token: an access token; None: the one of `hf auth login`, or HF_TOKEN, if there is any.
        cache_dir: the folder of the cache; None: the cache of the Hub client.

    Returns:
        The folder with the files. Read them with `load_sets(folder / "neurons")`, `NeuronStatistics.load` and so on.
        The folder is named after the commit. It is a part of the cache: copy it before you change it.

    Raises:
        HubError: the repository does not exist, push did not write it, or the Hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    api = _make_api(token)
    with hub_errors(repo_id, revision, "read"):
        record_folder = Path(
            api.snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=[RECORD_FILE])
        )
        files = published_files(record_folder, repo_id)
        patterns = [glob.escape(name) for name in files]
        commit = record_folder.name  # so that the files and the record are of the same commit
        folder = Path(api.snapshot_download(repo_id, revision=commit, cache_dir=cache_dir, allow_patterns=patterns))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise HubError(
            f"{repo_id} lacks {missing[0]}, which its {RECORD_FILE} lists: pull again with a network, or push again"
        )
    return folder


def _make_api(token: str | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="pymultiling")


def _encode_record(record: RunRecord) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def _create_repository(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Creates the repository and the branch if they do not exist.

    Raises:
        HubError: `private` is True, but the repository exists and is public.
    """
    # None: the owner's settings decide. False would make a new repository public whatever they are.
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise HubError(f"{repo_id} is public already: make it private in its settings, or give another name")
    # A revision refs/pr/N is a pull request, which cannot be created as a branch.
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _previous_files(api: HfApi, repo_id: str, revision: str | None, names: Iterable[str], scratch: str) -> set[str]:
    """Returns the files of an earlier push that still exist.

    Raises:
        HubError: the repository has a file with one of the names that no push wrote.
    """
    existing = set(api.list_repo_files(repo_id, revision=revision))
    previous: set[str] = set()
    if RECORD_FILE in existing:
        file = Path(api.hf_hub_download(repo_id, RECORD_FILE, revision=revision, cache_dir=scratch))
        previous = existing & set(published_files(file.parent, repo_id))
    foreign = sorted(existing.intersection(names) - previous)
    if foreign:
        raise HubError(
            f"{repo_id} has a file {foreign[0]} that no push wrote: give another repository, or delete the file there"
        )
    return previous


def _commit_operations(
    sources: Mapping[str, bytes | Path], previous: set[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(name, source) for name, source in sources.items()]
    deleted = [CommitOperationDelete(name) for name in sorted(previous - set(sources))]
    return [*added, *deleted]
