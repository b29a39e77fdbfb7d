"""Measures the highest rates of the device: copying, bf16 matrix products and exponentials."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch

from benchmarks.gpu import clocks
from benchmarks.gpu.device_timing import Run, Stopwatch
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import DTYPE, Workload
from benchmarks.measuring.environment import describe_device

Prepare: TypeAlias = Callable[[Workload, torch.device], tuple[Run, int, str]]  # the run, its work, and the work's unit


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for each rate: bytes read and written, operations and exponentials a second.

    "copy" is the rate for the most bytes, "exp2" that of exponentials. Other programs take fractions of these two.
    """
    rows.add("environment", {}, lambda: dict(describe_device(device)))
    clocks.measure(rows, "at the start")
    stopwatch = Stopwatch(device)
    *smaller, largest = workload.copied
    ceilings: dict[str, Prepare] = {"copy": partial(_copy, largest), "exp2": _exponentials}
    ceilings |= {f"copy, {moved / 1e6:.3g} MB": partial(_copy, moved) for moved in smaller}
    ceilings["matmul"] = _matmul
    for name, prepare in ceilings.items():

        def measure_rate(prepare: Prepare = prepare) -> dict[str, object]:
            run, work, unit = prepare(workload, device)
            rate = 1e3 * work / statistics.median(stopwatch.repeat(run))
            return {"a second": float(f"{rate:.4g}"), "of": unit}

        rows.add("ceilings", {"ceiling": name}, measure_rate)
    clocks.measure(rows, "after a matrix product")


def _copy(moved: int, workload: Workload, device: torch.device) -> tuple[Run, int, str]:
    source = torch.randn(moved // 8, device=device)  # 4 bytes each, read and written
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes, "bytes, read and written"


def _matmul(workload: Workload, device: torch.device) -> tuple[Run, int, str]:
    size = workload.matrix
    a, b = torch.randn(2, size, size, device=device, dtype=DTYPE)
    return lambda: a @ b, 2 * size**3, f"operations, bf16, {size}^3"


def _exponentials(workload: Workload, device: torch.device) -> tuple[Run, int, str]:
    if device.type != "cuda":
        raise SkipRow("the kernel that measures it is a GPU's")
    from benchmarks.gpu.exponentials import Exponentials

    run = Exponentials(device)
    return run, run.count, "exponentials, float32"
