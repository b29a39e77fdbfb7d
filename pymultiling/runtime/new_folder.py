"""Writes a new folder completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymultiling.errors import CheckpointError


def require_new_folder(out: str | Path) -> Path:
    """Returns the absolute path of a folder to be written.

    Raises:
        CheckpointError: there is a file of this name, or a folder that holds files.
    """
    out = Path(out).resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not an empty folder: give another name, or remove it first")
    return out


@contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, beside `out`.

    It is renamed to `out` at the end of the block, and removed after an exception.

    Raises:
        CheckpointError: as `require_new_folder`.
        OSError: the folder that contains `out` cannot be written to.
    """
    out = require_new_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
