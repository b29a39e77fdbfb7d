"""Locks on folders, so that one run at a time uses a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pymultiling.errors import CheckpointError

_locked_folders: set[Path] = set()  # those of this process, which get their own error message


@contextmanager
def lock_folder(process_folder: Path) -> Iterator[None]:
    """Locks a folder against other runs and against other uses by this process, until the end of the block.

    process_folder: the folder of this process inside the checkpoint folder, which error messages name.

    Raises:
        CheckpointError: the folder is locked already, or cannot be written to.
    """
    process_folder = process_folder.resolve()
    if process_folder in _locked_folders:
        raise CheckpointError(f"{process_folder.parent} is already in use by this process: give another folder")
    _locked_folders.add(process_folder)
    try:
        try:
            (process_folder / "lock").open("a").close()
        except OSError as error:
            reason = error.strerror or error
            message = f"{process_folder.parent} cannot hold checkpoints ({reason}): give another folder"
            raise CheckpointError(message) from None
        # No fallback to a marker file, which would stay behind when the process is killed.
        lock = FileLock(process_folder / "lock", timeout=0, thread_local=False, fallback_to_soft=False)
        _acquire(lock, process_folder.parent)
        try:
            yield
        finally:
            lock.release()
    finally:
        _locked_folders.remove(process_folder)


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        message = f"{folder} is in use by another run: wait until it has ended, or give another folder"
        raise CheckpointError(message) from None
    except (OSError, NotImplementedError) as error:  # the file system does not support locks
        warnings.warn(f"{folder} cannot be locked ({error}): make sure that no other run uses it", stacklevel=2)
