"""Errors of the Hugging Face Hub, converted to messages that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pymultiling.errors import HubError, type_and_text

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def is_valid_repo_id(repo_id: str | None) -> bool:
    """Whether the Hub accepts `repo_id` as the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not in __all__

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return False
    return True


def check_repo_id(repo_id: str) -> None:
    """Raises HubError unless `repo_id` has the form OWNER/NAME."""
    if not is_valid_repo_id(repo_id) or "/" not in repo_id:
        raise HubError(f"{repo_id!r} cannot be a repository's name: give OWNER/NAME, such as me/language-neurons")


@contextmanager
def hub_errors(repo_id: str, revision: str | None, verb: Literal["read", "write"]) -> Iterator[None]:
    """Converts every exception of the Hub, its client or the network into a HubError.

    Args:
        repo_id: the repository, for the message.
        revision: its branch, tag or commit, for the message; None: main.
        verb: what the block does with the repository, for the message.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # the network library depends on the client's version and has its own errors
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a local file
        raise HubError(_describe_error(error, repo_id, revision or "main", verb)) from error


def _describe_error(error: BaseException, repo_id: str, revision: str, verb: Literal["read", "write"]) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the reason why the Hub was not reached; the cache does not have the files
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{repo_id} is not in the cache, and the Hub is not asked while HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: give one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is not on the Hub, or you may not see it: check the name; if it is private, {LOG_IN}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return f"the Hub needs a token to {verb} {repo_id}: {LOG_IN} to a token that may {verb} it"
    if status == 403:
        return f"the Hub does not let you {verb} {repo_id}: check its owner's name, and that your token may {verb} it"
    attempt = {"read": "read from", "write": "written to"}[verb]
    if status is not None:
        reason = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        return f"{repo_id} could not be {attempt} the Hub (status {status}: {reason}): try again later"
    reason = type_and_text(error).rstrip(".")
    return f"{repo_id} could not be {attempt} the Hub ({reason}): check the network, and try again"
