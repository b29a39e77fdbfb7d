"""The CUDA kernel where it was built and there is a GPU: in a process of its own, in case it breaks or hangs."""

import subprocess
import sys
from pathlib import Path

import pytest

from pymultiling.ops import unavailable

SECONDS = 40
reason = unavailable("cuda")


@pytest.mark.skipif(reason is not None, reason=str(reason))
def test_on_gpu():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("on_gpu.py")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
