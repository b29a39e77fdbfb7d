"""Programs of the repository, run in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_module(
    module: str, *arguments: object, launcher: tuple[str, ...] = (), timeout: float | None = None, **environment
):
    """`python [launcher] -m module arguments` from the repository's root; `environment` is added to this process's."""
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
    """The launcher that starts several processes on this machine."""
    return ("-m", "torch.distributed.run", "--standalone", *options)
