"""Measures the highest rates of the device: copying, bf16 matrix products and exponentials."""

import statistics
from collections.abc import Callable
from typing import TypeAlias

import torch

from benchmarks.gpu.device_timing import Run, Stopwatch
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import DTYPE, Workload

Prepare: TypeAlias = Callable[[Workload, torch.device], tuple[Run, int, str]]  # the run, its work, and the work's unit


def measure(rows: Rows, stopwatch: Stopwatch, workload: Workload, device: torch.device) -> dict[str, float]:
    """Measures the rates and adds a row for each of them.

    Returns:
        copy: bytes per second, read and written.
        matmul: operations per second.
        exp2: exponentials per second.
        A rate that could not be measured is missing here, and its row gives the reason.
    """
    rates: dict[str, float] = {}
    for name, prepare in {"copy": _copy, "matmul": _matmul, "exp2": _exponentials}.items():

        def measure_rate(name: str = name, prepare: Prepare = prepare) -> dict[str, object]:
            run, work, unit = prepare(workload, device)
            rates[name] = 1e3 * work / statistics.median(stopwatch.repeat(run))
            return {"a second": float(f"{rates[name]:.4g}"), "of": unit}

        rows.add("ceilings", {"ceiling": name}, measure_rate)
    return rates


def _copy(workload: Workload, device: torch.device) -> tuple[Run, int, str]:
    source = torch.randn(workload.copied // 4, device=device)
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
