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
from dataclasses import dataclass, replace
from functools import cache
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
from benchmarks.machine_code.sass import Instruction, parse
from benchmarks.operators.shapes import LLAMA_31_8B, Shape
from pymultiling.triton_kernels.qk_sweep import ROWS
from pymultiling.triton_kernels.variant import Variant

CHIP = "sm_90"
MULTIPROCESSORS, CLOCK = 132, 1.755e9
DOCUMENTS, LANES = 8, 32
OPERATORS = ("qk_importance", "qk_estimate")
CUDA_SOURCE = Path(__file__).parents[2] / "csrc/cuda/qk_importance/qk_importance_kernel.cu"
CUDA_WARPS, CUDA_OTHER_INSTRUCTIONS = 4, 2.0  # per scheduler: two blocks of 8 warps; for each element


def items(shape: Shape) -> range:
    """Returns the keys that each tile of rows of a head sees."""
    return range(ROWS.value, shape.length + 1, ROWS.value)


def milliseconds(clocks_of_a_head: float, shape: Shape) -> float:
    """Converts the clocks of a scheduler for all tiles of a head into the time of all layers of a batch."""
    return 1e3 * clocks_of_a_head * shape.layers * DOCUMENTS * shape.heads / (MULTIPROCESSORS * CLOCK)


def qk_variant(operator: str, shape: Shape, target: str = CHIP) -> Variant:
    """Returns the kernel for a model's heads."""
    if not shape.normed:
        return variants(target)[operator, f"bf16, d = {shape.head_size}, pre"]
    capped = variants(target)[operator, f"bf16, d = {shape.head_size}, norm, cap"]
    return replace(capped, name=f"bf16, d = {shape.head_size}, norm", constants={**capped.constants, "CAPPED": False})


@dataclass(frozen=True)
class Compiled:
    """A kernel for CHIP.

    Attributes:
        code: its instructions.
        block: warps of a program on each scheduler.
        resident: warps that are resident on a scheduler.
    """

    code: list[Instruction]
    block: int
    resident: int

    @classmethod
    def of(cls, variant: Variant) -> "Compiled":
        """Compiles a kernel."""
        kernel = compile_variant(variant, CHIP)
        used = resources(kernel)
        resident = CHIPS[CHIP].resident_warps(used["registers"], used["shared"], variant.num_warps)
        return cls(parse(machine_code(kernel)), variant.num_warps // SCHEDULERS, resident // SCHEDULERS)


@cache
def qk_clocks(operator: str, shape: Shape) -> tuple[int, list[tuple[str, list[float]]]]:
    """Returns the resident warps of a scheduler, and (phase, clocks for a head's tiles on each of MACHINES)."""
    kernel = Compiled.of(qk_variant(operator, shape))
    if operator == "qk_estimate":
        phases = phases_of_estimate(kernel.code, kernel.block * SCHEDULERS * LANES)
    else:
        phases = phases_of_importance(kernel.code)

    def clocks(phase: Phase, machine: Machine) -> float:
        return kernel.block * clocks_of_items([phase], items(shape), kernel.resident, machine)

    return kernel.resident, [(phase.name, [clocks(phase, machine) for machine in MACHINES]) for phase in phases]


def qk_milliseconds(operator: str, shape: Shape) -> list[float]:
    """Returns the time of q and k of all layers, on each of MACHINES."""
    _, phases = qk_clocks(operator, shape)
    return [milliseconds(sum(clocks), shape) for clocks in zip(*(clocks for _, clocks in phases))]


def compile_cuda() -> str | None:
    """Returns the machine code of the CUDA C++ kernel, or None if there is no nvcc."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "kernel.cubin")
        subprocess.run([nvcc, "-std=c++20", "-O3", "-cubin", f"-arch={CHIP}", "-o", out, CUDA_SOURCE], check=True)
        return cubin.disassemble(out.read_bytes())


def cuda_milliseconds(sass: str, machine: Machine, shape: Shape) -> float:
    """Returns the time of the CUDA C++ kernel."""
    sweep, elements_of_a_pass = cuda_sweep(parse(sass))
    clocks = simulate(sweep, CUDA_WARPS, machine) / elements_of_a_pass
    clocks *= 1 + CUDA_OTHER_INSTRUCTIONS * elements_of_a_pass / len(sweep)
    # query and key neurons, of a lane
    elements = sum(ROWS.value * keys for keys in items(shape)) * 2 * shape.head_size / LANES
    return milliseconds(clocks * elements / SCHEDULERS, shape)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if triton.knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it.")
    shape = LLAMA_31_8B
    shares: list[dict[str, object]] = []
    times: list[dict[str, object]] = []

    def add_time(kernel: str, warps: int, expected: float, fast: float, slow: float) -> None:
        numbers = {"expected ms": round(expected), "fast": round(fast), "slow": round(slow)}
        times.append({"kernel": kernel, "warps per scheduler": warps, **numbers})

    for operator in OPERATORS:
        warps, phases = qk_clocks(operator, shape)
        add_time(operator, warps, *qk_milliseconds(operator, shape))
        expected = pandas.Series([clocks[0] for _, clocks in phases], [name for name, _ in phases])
        by_name = expected.groupby(level=0, sort=False).sum()
        for name, share in (by_name / by_name.sum()).items():
            shares.append({"kernel": operator, "phase": name, "share": f"{share:.0%}"})
    sass = compile_cuda()
    if sass is not None:
        each = (cuda_milliseconds(sass, machine, shape) for machine in MACHINES)
        add_time("qk_importance, CUDA C++", CUDA_WARPS, *each)
    print(pandas.DataFrame(shares).to_string(index=False), end="\n\n")
    print(pandas.DataFrame(times).to_string(index=False))


if __name__ == "__main__":
    main()
