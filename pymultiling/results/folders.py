"""Writes the folder of a run's results completely or not at all. Imports no heavy packages."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymultiling.errors import CheckpointError
from pymultiling.results.run import RECORD_FILE, REPORT_FILE, files_in

_logger = logging.getLogger(__name__)

STATE_FOLDER = "checkpoint"  # in a result folder, while its run is not done
MEASURED_FOLDER = "measured"  # in a folder of `reproduce`, also when its run is done
STATE_FILES = re.compile(
    rf"{STATE_FOLDER}/(\w+/)?process-\d+-of-\d+/(lock|\d+-\d+\.(json|safetensors)|\d+\.rows|.*\.partial)"
    rf"|{MEASURED_FOLDER}/(settings\.json|detection/\d{{6}}/[^/]+\.safetensors|[^/]+/\d{{6}}-\d{{6}}\.safetensors)"
    r"(\.\d+\.partial)?"
)


@contextmanager
def result_folder(out: str | Path) -> Iterator[Path]:
    """Yields a temporary folder to fill, which becomes `out`.

    It is renamed to `out` at the end of the block, and removed after an exception. The folder of an earlier run is
    replaced, and so is the state of a run that is not done. A folder with other files is refused. If run.json is
    written into the folder, it also gets a report.

    Raises:
        CheckpointError: `out` cannot be replaced.
    """
    out = check_output_folder(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    former = out.with_name(f".{out.name}.{os.getpid()}.former")
    partial.mkdir()
    try:
        yield partial
        has_report = _write_report(partial, out)
        _replace(out, partial, former)
        if has_report:
            _logger.info("%s shows the results in a browser", out / REPORT_FILE)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_report(folder: Path, out: Path) -> bool:
    """Writes the report of the run into the folder that becomes `out`. Returns whether the folder has one now."""
    if not (folder / RECORD_FILE).is_file():
        return False
    from pymultiling.results.report import write_own_report

    return write_own_report(folder, out)


def _replace(out: Path, partial: Path, former: Path) -> None:
    """Renames `partial` to `out` and removes the folder that was there. After an exception that folder is restored."""
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
    """Checks that `result_folder` can create or replace `out`, and creates the folders that contain it.

    Returns:
        `out` as an absolute path.

    Raises:
        CheckpointError: `out` is a file or a mount point, or holds files that no earlier run wrote. This error stands
            for all saved files and folders, not only for checkpoints.
        OSError: the folder that contains `out` cannot be written to.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    # Raises OSError before a long run, not after it, if the folder cannot be written to.
    tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent).cleanup()
    if not out.exists():
        return out
    if not out.is_dir() or os.path.ismount(out):
        raise CheckpointError(f"{out} is a {'mount point' if out.is_dir() else 'file'}: give --out another folder")
    files = files_in(out)
    known = _recorded_files(out) if files else set()
    unknown = [file for file in files if file not in known and not STATE_FILES.fullmatch(file)]
    if unknown:
        raise CheckpointError(f"{out} holds other files, such as {unknown[0]}: give --out a new folder")
    return out


def _recorded_files(folder: Path) -> set[str]:
    """Returns run.json, the files that it lists and the report; nothing if the folder has no readable record."""
    from pymultiling.results.record_schema import read_run_record

    try:
        return {RECORD_FILE, REPORT_FILE, *read_run_record(folder / RECORD_FILE)["files"]}
    except (OSError, CheckpointError):
        return set()
