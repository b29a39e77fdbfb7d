"""Reads hardware counters of four kernels with Nsight Compute: stall reasons, hits in the L1, and busy pipes.

python -m benchmarks.gpu.counters KERNEL    launches one of them, for ncu to measure
"""

import csv
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import partial

import torch

from benchmarks.gpu.operators import cases
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import BACKEND, LLAMA_8B, Workload
from pymultiling.ops import unavailable

# {backend: operators}. The kernel in CUDA C++ has a process of its own, because it could crash.
KERNELS = {BACKEND: ("qk_importance", "gated_ffn", "qk_estimate"), "cuda": ("qk_importance",)}
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "LaunchStats")
SECONDS = 40  # for a backend: every kernel is launched about 20 times, because few counters can be read at once
SHOWN = (  # parts of the names of the counters in the results file
    "issue_stalled",
    "hit_rate",
    "inst_executed_pipe",
    "issue_active",
    "warps_active",
    "throughput",
    "duration",
    "registers_per_thread",
)


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for the kernels of each backend. ncu leaves the clocks as they are."""
    for backend in KERNELS:
        rows.add("counters", {"kernels of": backend}, partial(_profile, backend))


def _profile(backend: str) -> dict[str, object]:
    """Returns the columns "operators" and "counters": {counter: value} for each of their kernels, in order."""
    if (ncu := shutil.which("ncu")) is None:
        raise SkipRow("ncu (Nsight Compute) is not installed")
    if (reason := unavailable(backend)) is not None:
        raise SkipRow(reason)
    command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    command += [option for section in SECTIONS for option in ("--section", section)]
    command += [sys.executable, "-m", "benchmarks.gpu.counters", backend]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    counters = read_counters(completed.stdout)
    if not counters:
        message = (completed.stdout + completed.stderr)[-300:]
        raise RuntimeError(f"ncu: exit status {completed.returncode}: {message}")
    return {"operators": ", ".join(KERNELS[backend]), "counters": counters}


def read_counters(output: str) -> list[dict[str, object]]:
    """Returns the counters of every kernel in ncu's output (--csv --page raw), by name, of the kinds in SHOWN.

    PyTorch's own kernels are left out. The output has a line of names, a line of units and a line for each kernel,
    between messages that start with "==".
    """
    lines = list(csv.reader(line for line in output.splitlines() if line.startswith('"')))
    kernels = [dict(zip(lines[0], line)) for line in lines[2:]]
    return [_counters(kernel) for kernel in kernels if "at::" not in kernel.get("Kernel Name", "")]


def _counters(named: dict[str, str]) -> dict[str, object]:
    counters: dict[str, object] = {"function": named.get("Kernel Name", "")}
    for counter, value in named.items():
        if any(part in counter for part in SHOWN):
            with suppress(ValueError):  # a counter that was not measured is no number
                counters[counter] = float(value.replace(",", ""))
    return counters


def main() -> None:
    backend, device = sys.argv[1], torch.device("cuda")
    for operator in KERNELS[backend]:
        run = next(cases(operator, LLAMA_8B.shape, LLAMA_8B.documents, device)).on(backend)
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
