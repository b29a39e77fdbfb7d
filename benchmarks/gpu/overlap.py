"""Measures how well exponentials overlap with other instructions, and compares this with the simulated issue slots.

    python -m benchmarks.gpu.overlap [--predict]

The loop is the arithmetic of qk_importance's sweep without its loads: an exponential and 6 multiply-adds and additions
for each of 16 rows. A row of the table is a number of warps per scheduler. The columns are the clocks of a scheduler
for an exponential of a warp: measured, and predicted from the machine code that ran (benchmarks/machine_code/issue.py).
Clocks are relative to a kernel that only computes exponentials, which take 8, so the frequency of the chip does not
matter. If the two columns differ by more than 5%, the simulation is wrong, and with it the predictions in docs/gpu.md.

--predict compiles for sm_90 and prints only the predictions. It needs no GPU.
"""

import argparse
import statistics

import pandas
import torch
import triton
import triton.language as tl

from benchmarks.gpu.device_timing import Stopwatch
from benchmarks.gpu.exponentials import Exponentials
from benchmarks.machine_code.ahead_of_time import compile_variant, machine_code
from benchmarks.machine_code.sass import parse, sweep_loops
from benchmarks.machine_code.sweeps import clocks_per_exponential
from pymultiling.triton_kernels.variant import Variant

ROWS, THREADS = 16, 128
KEYS = 20_000  # passes through the loop
WARPS = (2, 3, 4)  # per scheduler; a program has one for each scheduler
CLOCKS = 8  # of an exponential


@triton.jit
def kernel(Out, keys, ROWS: tl.constexpr, THREADS: tl.constexpr):
    r, lane = tl.arange(0, ROWS)[:, None], tl.arange(0, THREADS)[None, :]
    near = (r + lane) * 1e-5
    far = (r - lane) * 1e-5
    shift = r * 1e-3 - lane * 1e-4
    m = tl.zeros((ROWS, THREADS), tl.float32)
    b1 = tl.zeros((ROWS, THREADS), tl.float32)
    b2 = tl.zeros((ROWS, THREADS), tl.float32)
    x = lane * 1e-3
    a = lane * 1e-6
    for _ in range(keys):
        v = a * tl.exp2(near * x + (far * a + shift)) - a
        m += v
        b1 += a * v
        b2 += v * v
        x += 1e-6
        a += 1e-9
    at = Out + tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    tl.store(at, tl.sum(m + b1 + b2, 0))


def variant() -> Variant:
    """Returns the kernel as it is compiled without a GPU."""
    return Variant.of(
        "overlap",
        "fp32",
        kernel,
        {"Out": "*fp32"},
        constants={"ROWS": ROWS, "THREADS": THREADS},
        divisible=(),
        num_warps=THREADS // 32,
        num_stages=1,
    )


def predict(sass: str) -> dict[int, float]:
    """Returns {warps per scheduler: clocks for each exponential of a warp} from the kernel's machine code."""
    (loop,) = sweep_loops(parse(sass))
    return {warps: clocks_per_exponential(loop, warps)[0] for warps in WARPS}


def measure(device: torch.device) -> tuple[dict[int, float], str]:
    """Returns {warps per scheduler: clocks for each exponential of a warp} of a GPU, and the machine code that ran."""
    stopwatch = Stopwatch(device)
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    exponentials = Exponentials(device)
    milliseconds_each = statistics.median(stopwatch.repeat(exponentials)) / exponentials.count
    out = torch.empty(max(WARPS) * multiprocessors * THREADS, device=device)
    clocks = {}
    for warps in WARPS:
        # Blocks are spread evenly over the multiprocessors, which run all of them at once.
        grid = (warps * multiprocessors,)

        def run(grid: tuple[int, ...] = grid) -> triton.compiler.CompiledKernel:
            return kernel[grid](out, KEYS, ROWS, THREADS, num_warps=THREADS // 32, num_stages=1)

        count = grid[0] * THREADS * ROWS * KEYS
        clocks[warps] = CLOCKS * statistics.median(stopwatch.repeat(run)) / count / milliseconds_each
    return clocks, machine_code(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predict", action="store_true", help="print only the predictions; needs no GPU")
    if parser.parse_args().predict:
        columns = {"predicted": predict(machine_code(compile_variant(variant(), "sm_90")))}
    else:
        measured, sass = measure(torch.device("cuda"))
        predicted = predict(sass)
        ratio = {warps: measured[warps] / predicted[warps] for warps in WARPS}
        columns = {"measured": measured, "predicted": predicted, "measured / predicted": ratio}
    print(pandas.DataFrame(columns).rename_axis("warps per scheduler").round(2).to_string())


if __name__ == "__main__":
    main()
