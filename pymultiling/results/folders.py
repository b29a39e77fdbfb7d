"""The folder of a run's results: written whole or not at all. Importing is light."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymultiling.errors import CheckpointError
from pymultiling.results.run import RECORD_FILE, files_in


@contextmanager
def result_folder(out: str | Path) -> Iterator[Path]:
    """Yields a folder to fill; it becomes `out` when the block ends well, and is gone when it does not.

    A former run's folder is replaced; one with anything else in it is not touched.

    Raises:
        CheckpointError: `out` is taken.
    """
    out = check_output_folder(out)
    partial, former = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("partial", "former"))
    partial.mkdir()
    try:
        yield partial
        _replace(out, partial, former)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path, former: Path) -> None:
    """`partial` becomes `out`, and what was there is gone; it stays where that is impossible."""
    if out.exists():
        out.rename(former)
    try:
        partial.rename(out)
    except BaseException:
        if former.exists():
            former.rename(out)
        raise
    shutil.rmtree(former, ignore_errors=True)


def check_output_folder(out: str | Path) -> Path:
    """`out`, absolute.

    Raises:
        CheckpointError: a result folder cannot become it.
        OSError: nothing can be written beside it.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent).cleanup()
    if not out.exists():
        return out
    if not out.is_dir() or os.path.ismount(out):
        raise CheckpointError(f"{out} is a {'mount point' if out.is_dir() else 'file'}: give --out another folder")
    files = files_in(out)
    try:
        record = json.loads((out / RECORD_FILE).read_text("utf-8")) if files else {"files": []}
        known = {RECORD_FILE, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    others = [file for file in files if file not in known]
    if others:
        raise CheckpointError(f"{out} holds other files, such as {others[0]}: give --out a new folder")
    return out
