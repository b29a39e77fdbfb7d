"""Runs on_gpu.py if the CUDA kernel is built and there is a GPU, in a separate process in case it crashes or hangs."""

import subprocess
import sys
from pathlib import Path

import pytest

from pymultiling.ops import unavailable

SECONDS = 40
reason = unavailable("cuda")


@pytest.mark.skipif(reason is not None, reason=str(reason))
def test_on_gpu():
    script = str(Path(__file__).with_name("on_gpu.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", script]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
