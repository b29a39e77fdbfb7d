"""What goes wrong with the Hugging Face Hub, in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymultiling.errors import HubError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def check_repo_id(repo_id: str) -> None:
    """HubError where it is not of the form OWNER/NAME."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        if "/" in repo_id:
            return
    except HFValidationError:
        pass
    raise HubError(f"{repo_id!r} cannot be a repository's name: give OWNER/NAME, such as me/language-neurons")


@contextmanager
def hub_errors(repo_id: str, revision: str | None, verb: str) -> Iterator[None]:
    """Inside, whatever the Hub, its client or the network raise becomes a HubError; `verb` is "read" or "write"."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # the client's network library, which depends on its version, has errors of its own
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a file here
        raise HubError(_sentence(error, repo_id, revision or "main", verb)) from error


def _sentence(error: BaseException, repo_id: str, revision: str, verb: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # what was in the way of asking the Hub, when the cache had no answer
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"the Hub is not asked for {repo_id} while HF_HUB_OFFLINE is set, and the cache lacks it: unset it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: give one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is not on the Hub, or not for you to see: check the name; if it is private, {LOG_IN}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return f"the Hub does not know who asks to {verb} {repo_id}: {LOG_IN} to a token that may {verb} it"
    if status == 403:
        return f"the Hub does not let you {verb} {repo_id}: check its owner's name, and that your token may {verb} it"
    if status is not None:
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        return f"the Hub did not {verb} {repo_id} (status {status}: {reason}): try again later"
    reason = " ".join(str(error).split()).rstrip(".")
    return f"the Hub could not {verb} {repo_id} ({type(error).__name__}: {reason}): check the network, and try again"
