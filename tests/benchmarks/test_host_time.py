"""Runs the benchmark of the host's time with one layer, on a stub GPU or on the GPU."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu.workload import EXACT, FORWARD
from pymultiling.ops import backends

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(backends.load_triton() is not None, reason=str(backends.load_triton())),
]


def test_prints_a_row_for_every_run():
    """Every operator of the five sites is launched twice and more, so compiled kernels are looked up too."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.gpu.host_time", "--layers", "1", "--rounds", "1"]
    completed = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert completed.returncode == 0, completed.stderr[-3000:]
    rows = [line for line in completed.stdout.splitlines() if "beyond the forward" in line]
    assert len(rows) == (7 if torch.cuda.is_available() else 4)  # with and without CUDA graphs on a GPU
    assert rows[0].startswith(FORWARD) and any(row.startswith(EXACT) for row in rows)
