"""Reads hardware counters of four kernels with Nsight Compute: stall reasons, hits in the L1, and busy pipes.

python -m benchmarks.gpu.counters KERNEL    launches one of them, for ncu to measure
"""

import csv
import shutil
import subprocess
import sys
from functools import partial

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.operators import cases
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import BACKEND, LLAMA_8B, Workload

# The operator and the backend of each kernel.
KERNELS = {
    "qk_importance": ("qk_importance", BACKEND),
    "qk_importance, CUDA C++": ("qk_importance", "cuda"),
    "gated_ffn": ("gated_ffn", BACKEND),
    "qk_estimate": ("qk_estimate", BACKEND),
}
SECTIONS = ("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "Occupancy")
SECONDS = 20  # for a kernel: a part of its counters at a time, each in a launch of its own
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
    """Adds a row for every kernel. ncu leaves the clocks as they are."""
    for name in KERNELS:
        rows.add("counters", {"kernel": name}, partial(_profile, name))


def _profile(name: str) -> dict[str, object]:
    if (ncu := shutil.which("ncu")) is None:
        raise SkipRow("ncu (Nsight Compute) is not installed")
    command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "raw"]
    command += [option for section in SECTIONS for option in ("--section", section)]
    command += [sys.executable, "-m", "benchmarks.gpu.counters", name]
    completed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    counters = read_counters(completed.stdout)
    if not counters:
        raise RuntimeError(f"ncu: exit status {completed.returncode}: {(completed.stdout + completed.stderr)[-300:]}")
    return {"counters": counters}


def read_counters(output: str) -> dict[str, float | str]:
    """Returns the counters of the last kernel in ncu's output (--csv --page raw), by name, of the kinds in SHOWN.

    The output has a line of names, a line of units and a line for each kernel, between messages that start with "==".
    """
    lines = list(csv.reader(line for line in output.splitlines() if line.startswith('"')))
    if len(lines) < 3:
        return {}
    named = dict(zip(lines[0], lines[-1]))
    counters: dict[str, float | str] = {"function": named.get("Kernel Name", "")}
    for counter, value in named.items():
        if any(part in counter for part in SHOWN):
            try:
                counters[counter] = float(value.replace(",", ""))
            except ValueError:
                continue  # the counter was not measured
    return counters


def main() -> None:
    operator, backend = KERNELS[sys.argv[1]]
    case: Case = next(cases(operator, LLAMA_8B.shape, LLAMA_8B.documents, torch.device("cuda")))
    run = case.on(backend)
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
