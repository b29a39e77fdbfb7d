"""Checks the kernels with NVIDIA's compute-sanitizer: accesses outside their tensors, and races in shared memory.

    python -m benchmarks.gpu.sanitizer

It runs the same calls as benchmarks/gpu/errors.py, with sizes that are not multiples of a block's size. The exit
status is 0 if no error is found. It is also 0, with a message, if compute-sanitizer is not installed or does not
support the device. Otherwise it is 1.
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

TOOLS = {"memcheck": [], "racecheck": ["qk_importance", "qk_estimate"]}  # operators to check; an empty list means all
SECONDS = {"compiling": 25, "memcheck": 25, "racecheck": 20}


def run_kernels(operators: list[str]) -> None:
    """Calls the kernels once for each case and dtype."""
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


def check(tool: str, operators: list[str]) -> bool:
    """Runs a tool of compute-sanitizer and returns whether it found no error."""
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
    status, output = _run(tool, command)
    if "Device not supported" in output:
        print(f"{tool}: compute-sanitizer does not support this device; nothing was checked")
        return True
    print(output if status else f"{tool}: no errors found")
    return not status


def _run(step: str, command: list[str]) -> tuple[int, str]:
    """Runs a command and returns its exit status and output.

    Every tensor has its own allocation, so that accesses beyond its end are detected.
    """
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        completed = subprocess.run(command, env=environment, timeout=SECONDS[step], check=False, **pipes)
    except subprocess.TimeoutExpired:
        return 1, f"{step}: did not end within {SECONDS[step]} seconds"
    return completed.returncode, f"{step}: exit status {completed.returncode}\n{completed.stdout}"


def main() -> int:
    if sys.argv[1:2] == ["run"]:
        run_kernels(sys.argv[2:])
        return 0
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not installed: memory accesses and races were not checked")
        return 0
    # Compiles the kernels first, without the slow checks.
    status, output = _run("compiling", [sys.executable, "-m", __spec__.name, "run"])
    if status:
        print(output)
        return 1
    passed = [check(tool, operators) for tool, operators in TOOLS.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
