"""Errors of reading texts: why a file or a server cannot be read, in a few words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from pymultiling.errors import BackendUnavailable, CorpusError, error_text

NO_SUCH_FILE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
NOT_ALLOWED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@contextmanager
def wrap_read_errors(name: str) -> Iterator[None]:
    """Converts exceptions of the block into a CorpusError that names the source and the cause.

    A package that is missing becomes BackendUnavailable. MemoryError passes.
    """
    try:
        yield
    except (CorpusError, BackendUnavailable, MemoryError):
        raise
    except ImportError as error:  # fsspec imports the package of a protocol when it is needed
        raise BackendUnavailable(
            f"{name} cannot be read without a package that is not installed ({error_text(error)}): "
            "pip install 'pymultiling[remote]', or the package that is named, or give a local file"
        ) from error
    except Exception as error:  # every file system has exceptions of its own
        raise CorpusError(_explain(name, error)) from error


def _explain(name: str, error: Exception) -> str:
    """Returns a sentence that says why a file cannot be read, and what to do."""
    for cause in _causes(error):
        status = _status(cause)
        if status in NO_SUCH_FILE:
            return f"{name}: no such file (the server answers {status} {_phrase(status)}); check the address"
        if status is not None:
            advice = "log in, or check the address" if status in NOT_ALLOWED else "try again later, or give other texts"
            return f"{name} cannot be read (the server answers {status} {_phrase(status)}): {advice}"
        if "://" in name and (reason := _network_failure(cause)):
            return f"{name} cannot be read ({reason}): check the address and the network"
    if isinstance(error, FileNotFoundError):
        return f"{name}: no such file; check the {'address' if '://' in name else 'path'}"
    return f"{name} cannot be read ({error_text(error)}): remove the cause, or give other texts"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those that it was raised from. Libraries wrap what the network reports."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _network_failure(error: BaseException) -> str:
    """Returns what the operating system says of an error of the network, or "" for other errors."""
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
        # An error of the resolver has a number below 0, and a text of its own.
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return "the server does not answer" if isinstance(error, TimeoutError) else ""


def _status(error: BaseException) -> int | None:
    """Returns the status of a server's answer: aiohttp has it in the exception, httpx and requests in its response."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= HTTPStatus.BAD_REQUEST else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
