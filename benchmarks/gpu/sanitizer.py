"""The kernels under compute-sanitizer: reads and writes outside of their tensors, and races over shared memory.

    python -m benchmarks.gpu.sanitizer

Runs the calls that benchmarks/gpu/errors.py compares, on sizes that fill no block. Exit status: 0 if nothing was found, or where
compute-sanitizer is not there or does not know the device, which is said; 1 otherwise.
"""

import argparse
import os
import shutil
import subprocess
import sys

import torch

from benchmarks.gpu.errors import cases
from benchmarks.gpu.workload import LLAMA_8B
from pymultiling.errors import BackendUnavailable

TOOLS = {"memcheck": [], "racecheck": ["qk_importance", "qk_estimate"]}  # which operators; none named: all
SECONDS = {"compiling": 25, "memcheck": 25, "racecheck": 20}


def run_kernels(operators: list[str]) -> None:
    """Calls the kernels, once for each case and dtype."""
    device = torch.device("cuda")
    for case in cases(LLAMA_8B.small, device):
        if operators and case.operator not in operators:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            try:
                case.to(dtype).on("triton")()
            except BackendUnavailable as reason:
                print(f"{case.title}, {case.name}: {reason}")
    torch.cuda.synchronize()


def sanitized(tool: str, operators: list[str]) -> bool:
    """Whether nothing was found."""
    command = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--error-exitcode",
        "1",
        sys.executable,
        "-m",
        __spec__.name,
        "run",
        *operators,
    ]
    status, printed = _run(tool, command)
    if "Device not supported" in printed:
        print(f"{tool}: compute-sanitizer does not know this device, nothing was checked")
        return True
    print(printed if status else f"{tool}: nothing found")
    return not status


def _run(what: str, command: list[str]) -> tuple[int, str]:
    """Exit status and all that was printed; with every tensor an allocation of its own, whose end can be overrun."""
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(command, env=environment, timeout=SECONDS[what], check=False, **pipes)
    except subprocess.TimeoutExpired:
        return 1, f"{what}: no end within {SECONDS[what]} seconds"
    return done.returncode, f"{what}: exit status {done.returncode}\n{done.stdout}"


def main() -> int:
    if sys.argv[1:2] == ["run"]:
        run_kernels(sys.argv[2:])
        return 0
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if shutil.which("compute-sanitizer") is None:
        print("no compute-sanitizer here: memory accesses and races were not checked")
        return 0
    status, printed = _run("compiling", [sys.executable, "-m", __spec__.name, "run"])  # before every access is watched
    if status:
        print(printed)
        return 1
    clean = [sanitized(tool, operators) for tool, operators in TOOLS.items()]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
