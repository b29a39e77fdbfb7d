"""A folder that one run at a time uses."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pymultiling.errors import CheckpointError

_held: set[Path] = set()  # by this process, for which there is a sentence of its own


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
            open(part / "lock", "a").close()
        except OSError as error:
            raise CheckpointError(f"{part.parent} cannot hold checkpoints: {error.strerror or error}") from None
        # Without `flock` a marker file would be the lock, which outlives a process that is killed.
        lock = FileLock(part / "lock", timeout=0, thread_local=False, fallback_to_soft=False)
        _acquire(lock, part.parent)
        try:
            yield
        finally:
            lock.release()
    finally:
        _held.remove(part)


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        raise CheckpointError(f"{folder} is in use by another run: wait for its end, or give another folder") from None
    except (OSError, NotImplementedError) as error:  # a file system that cannot lock
        warnings.warn(f"{folder} cannot be locked ({error}): see that no other run uses it")
