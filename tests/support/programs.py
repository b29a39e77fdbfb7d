"""Runs modules of the repository in their own processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_module(
    module: str, *arguments: object, launcher: tuple[str, ...] = (), timeout: float | None = None, **environment
):
    """Runs `python [launcher] -m module arguments` in the repository's root. Returns the completed process.

    Args:
        module: name of the module.
        *arguments: its arguments.
        launcher: arguments of Python before "-m module", such as those of `torchrun`.
        timeout: seconds. None: no limit.
        **environment: variables to add to those of this process.
    """
    command = [sys.executable, *launcher, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def torchrun(*options: str) -> tuple[str, ...]:
    """Returns the launcher for `run_module` that starts several processes on this machine, with options of torchrun."""
    return ("-m", "torch.distributed.run", "--standalone", *options)
