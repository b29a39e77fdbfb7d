"""Checks the kernels with NVIDIA's compute-sanitizer: accesses outside their tensors, and races in shared memory.

    python -m benchmarks.gpu.sanitizer BACKEND OPERATOR ...    calls operators once, for the sanitizer to check

The sizes are not multiples of a block's size.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu.errors import cases
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import BACKEND, DTYPE, LLAMA_8B, Workload
from pymultiling.ops import unavailable

QK = ("qk_importance", "qk_estimate")
OTHERS = (
    "column_energy",
    "active_count",
    "gated_ffn",
    "mask_neurons",
    "value_energy",
    "normed_energy",
    "nearest_neighbors",
)
# The tool, the backend and the operators of each check, the most important first.
CHECKS = (
    ("memcheck", BACKEND, OTHERS + QK),
    ("memcheck", "cuda", QK[:1]),
    ("racecheck", "cuda", QK[:1]),
    ("racecheck", BACKEND, QK),
)
SECONDS = 40  # for a check, of which torch takes some to load its kernels under the sanitizer


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for every check."""
    for tool, backend, operators in CHECKS:
        row = {"tool": tool, "backend": backend, "operators": ", ".join(operators)}
        rows.add("sanitizer", row, partial(_check, tool, backend, operators))


def _check(tool: str, backend: str, operators: tuple[str, ...]) -> dict[str, object]:
    """Runs a tool of compute-sanitizer and returns whether it found no error.

    Every tensor has its own allocation, so that accesses beyond its end are detected.
    """
    if shutil.which("compute-sanitizer") is None:
        raise SkipRow("compute-sanitizer is not installed")
    if (reason := unavailable(backend)) is not None:
        raise SkipRow(reason)
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
    command += [sys.executable, "-m", "benchmarks.gpu.sanitizer", backend, *operators]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    output = completed.stdout + completed.stderr
    if "Device not supported" in output:
        raise SkipRow("compute-sanitizer does not support this device")
    if completed.returncode:
        return {"no errors": False, "output": output[-1000:]}
    return {"no errors": True}


def main() -> None:
    backend, *operators = sys.argv[1:]
    one_input = replace(LLAMA_8B, inputs=1)
    for case in cases(operators, one_input, torch.device("cuda")):
        case.to(DTYPE).on(backend)()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
