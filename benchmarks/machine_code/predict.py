"""Predicts how long q and k of a model of Llama-3.1-8B's shape take on an H200, from simulated issue slots.

    python -m benchmarks.machine_code.predict

It compiles Triton's qk_importance and qk_estimate and, if there is an nvcc, qk_importance in CUDA C++ for sm_90. No GPU
is needed. The workload has 32 layers, and 8 documents of 512 tokens. A row of the first table is a phase of a kernel
with the share of its time. The second table has the milliseconds of every kernel: expected, and on the fast and the
slow `Machine`.

Assumptions, in addition to those of issue.py and phases.py:

* The clock is 1.755 GHz. The time of `python -m benchmarks.gpu.run` divided by the prediction depends on it.
* Multiprocessors are always full: the last programs, and the time between launches, cost nothing. Refuted if 32 layers
  take more than 32 times as long as one in a timeline, or if the last programs end more than 2% after the first.
* For the CUDA C++ kernel only the sweep is simulated. The other phases take 2.0 instructions for each element (counted
  by hand) and as many clocks for an instruction as the sweep.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas
import triton

from benchmarks.machine_code import cubin
from benchmarks.machine_code.ahead_of_time import compile_variant, machine_code, resources, variants
from benchmarks.machine_code.chips import CHIPS, SCHEDULERS
from benchmarks.machine_code.issue import MACHINES, Machine, simulate
from benchmarks.machine_code.phases import (
    Phase,
    clocks_of_items,
    cuda_sweep,
    phases_of_estimate,
    phases_of_importance,
)
from benchmarks.machine_code.sass import parse
from pymultiling.triton_kernels.qk_sweep import ROWS

CHIP, VARIANT = "sm_90", "bf16, d = 128, pre"
MULTIPROCESSORS, CLOCK = 132, 1.755e9
LAYERS, DOCUMENTS, HEADS, TOKENS, SIZE, LANES = 32, 8, 32, 512, 128, 32
PHASES = {"qk_importance": phases_of_importance, "qk_estimate": phases_of_estimate}
CUDA_SOURCE = Path(__file__).parents[2] / "csrc/cuda/qk_importance/qk_importance_kernel.cu"
CUDA_WARPS, CUDA_OTHER_INSTRUCTIONS = 4, 2.0  # per scheduler: two blocks of 8 warps; for each element

ITEMS = range(ROWS.value, TOKENS + 1, ROWS.value)  # keys that the tiles of rows of a head see


def milliseconds(clocks_of_a_head: float) -> float:
    """Converts the clocks of a scheduler for all tiles of a head into the time of the workload."""
    return 1e3 * clocks_of_a_head * LAYERS * DOCUMENTS * HEADS / (MULTIPROCESSORS * CLOCK)


def triton_kernel(operator: str) -> tuple[list[Phase], int]:
    """Compiles a kernel. Returns its phases and the resident warps of a scheduler."""
    variant = variants(CHIP)[operator, VARIANT]
    kernel = compile_variant(variant, CHIP)
    used = resources(kernel)
    warps = CHIPS[CHIP].resident_warps(used["registers"], used["shared"], variant.num_warps) // SCHEDULERS
    return PHASES[operator](parse(machine_code(kernel))), warps


def compile_cuda() -> str | None:
    """Returns the machine code of the CUDA C++ kernel, or None if there is no nvcc."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "kernel.cubin")
        subprocess.run([nvcc, "-std=c++20", "-O3", "-cubin", f"-arch={CHIP}", "-o", out, CUDA_SOURCE], check=True)
        return cubin.disassemble(out.read_bytes())


def cuda_milliseconds(sass: str, machine: Machine) -> float:
    """Returns the time of the CUDA C++ kernel."""
    sweep, elements_of_a_pass = cuda_sweep(parse(sass))
    clocks = simulate(sweep, CUDA_WARPS, machine) / elements_of_a_pass
    clocks *= 1 + CUDA_OTHER_INSTRUCTIONS * elements_of_a_pass / len(sweep)
    elements = sum(ROWS.value * keys for keys in ITEMS) * 2 * SIZE / LANES  # query and key neurons, of a lane
    return milliseconds(clocks * elements / SCHEDULERS)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it.")
    shares: list[dict[str, object]] = []
    times: list[dict[str, object]] = []

    def add_time(kernel: str, warps: int, expected: float, fast: float, slow: float) -> None:
        numbers = {"expected ms": round(expected), "fast": round(fast), "slow": round(slow)}
        times.append({"kernel": kernel, "warps per scheduler": warps, **numbers})

    for operator in PHASES:
        phases, warps = triton_kernel(operator)
        # A program has a warp for every scheduler.
        each = [[clocks_of_items([phase], ITEMS, warps, machine) for phase in phases] for machine in MACHINES]
        add_time(operator, warps, *(milliseconds(sum(clocks)) for clocks in each))
        by_name = pandas.Series(each[0], [phase.name for phase in phases]).groupby(level=0, sort=False).sum()
        for name, share in (by_name / by_name.sum()).items():
            shares.append({"kernel": operator, "phase": name, "share": f"{share:.0%}"})
    sass = compile_cuda()
    if sass is not None:
        add_time("qk_importance, CUDA C++", CUDA_WARPS, *(cuda_milliseconds(sass, machine) for machine in MACHINES))
    print(pandas.DataFrame(shares).to_string(index=False), end="\n\n")
    print(pandas.DataFrame(times).to_string(index=False))


if __name__ == "__main__":
    main()
