"""Calls every operator once as users call it and compares the results with float64 and with a second call."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import launches
from benchmarks.gpu.errors import WITH_KERNELS, cases, compare
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import DTYPE, Workload
from pymultiling.ops.registry import OPERATORS


@torch.no_grad()
def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for every operator, with random bfloat16 inputs."""
    for operator in WITH_KERNELS:
        case = next(cases((operator,), workload, device)).to(DTYPE)
        rows.add("correctness", {"operator": case.title, "input": case.name}, lambda case=case: _check(case, device))


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs."""
    slow_first = sorted(WITH_KERNELS, key=lambda name: not OPERATORS[name].slow_to_compile)
    return {f"{name}, small": partial(_call, name, workload, device) for name in slow_first}


def _call(operator: str, workload: Workload, device: torch.device) -> None:
    next(cases((operator,), workload, device)).to(DTYPE).on("auto")()


def _check(case: Case, device: torch.device) -> dict[str, object]:
    columns = compare(case, "auto")
    results = [case.fresh().on("auto")() for _ in range(2)]
    names = launches(case.fresh().on("auto"), device)
    return {
        **columns,
        "same bits twice": all(map(torch.equal, *results)),
        "launches": names and len(names),
        "kernels": names,
    }
