"""A folder that one run at a time uses."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymultiling.errors import CheckpointError

_held: set[Path] = set()  # by this process, which the lock of a file does not keep out


@contextmanager
def locked(part: Path) -> Iterator[None]:
    """Inside, this part of a folder is nobody else's.

    Raises:
        CheckpointError: it is in use, or cannot be written to.
    """
    part = part.resolve()
    if part in _held:
        raise CheckpointError(f"{part.parent} is in use by this process already: give another folder")
    _held.add(part)
    try:
        try:
            file = open(part / "lock", "a")
        except OSError as error:
            raise CheckpointError(f"{part.parent} cannot hold checkpoints: {error.strerror or error}") from None
        with file:
            _lock(file, part.parent)
            yield
    finally:
        _held.remove(part)


def _lock(file, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process's own: what it starts does not keep it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise CheckpointError(
                f"{folder} is in use by another run: wait for its end, or give another folder"
            ) from None
        warnings.warn(f"{folder} cannot be locked ({error}): see that no other run uses it")
