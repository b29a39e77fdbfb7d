"""The checkpoint of a command that was given no --checkpoint: a folder in --out, which the results replace."""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress

from pymultiling.results.folders import STATE_FOLDER


def keep_checkpoint_in_results(arguments: Namespace) -> None:
    """Lets the command save its state in --out, unless --checkpoint names another folder."""
    if arguments.checkpoint is None:
        arguments.checkpoint = arguments.out / STATE_FOLDER


def remove_empty_checkpoint(arguments: Namespace) -> None:
    """After a command that failed: removes the folders for its state from --out if no state was written."""
    checkpoint = getattr(arguments, "checkpoint", None)
    if checkpoint is None or checkpoint != arguments.out / STATE_FOLDER:
        return
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    if any(path.name != "lock" for path in files):
        return
    with suppress(OSError):  # another process uses them
        for path in files:
            path.unlink()
        folders = sorted((path for path in checkpoint.rglob("*") if path.is_dir()), reverse=True)
        for folder in (*folders, checkpoint, arguments.out):
            folder.rmdir()
