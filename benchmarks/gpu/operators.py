"""Measures every operator that has a Triton kernel at the sizes of one layer, for several batches.

qk_variants.py measures other sizes of heads.

The columns are times, fractions of the device's highest rates, launches and memory. Columns with "MB" are in MiB.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import BACKEND, DTYPE, Workload, documents_of
from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.shapes import Shape
from pymultiling.ops.registry import OPERATORS

LONGEST_NAME = 80
TABLE = "operators"
QK = ("qk_importance", "qk_estimate")
MATRIX_OPERATORS = tuple(name for name, entry in OPERATORS.items() if BACKEND in entry.kernels and name not in QK)


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds rows for every operator with a Triton kernel, first with the batch of the workload, then with the others.

    The fractions of the device's highest rates need the rows of ceilings.py, which are read from the same file.
    """
    stopwatch, rates = Stopwatch(device), ceilings_of(rows)
    for documents, length in ((workload.documents, workload.shape.length), *workload.batches):
        for operator in (*MATRIX_OPERATORS, *QK):
            shape = replace(workload.shape_of(operator), length=length)
            for case in cases(operator, shape, documents, device):
                add_case(rows, case, BACKEND, stopwatch, rates)


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs."""
    batches = (workload.documents, *(documents for documents, _ in workload.batches))
    calls = {
        f"{name}, {n} x": partial(_call, name, workload.shape_of(name), n, device)
        for n in batches
        for name in MATRIX_OPERATORS
    }
    return {name: partial(_call, name, workload.shape, workload.documents, device) for name in QK} | calls


def _call(operator: str, shape: Shape, documents: int, device: torch.device) -> None:
    for case in cases(operator, shape, documents, device):
        case.on(BACKEND)()


def cases(operator: str, shape: Shape, documents: int, device: torch.device) -> Iterator[Case]:
    """Yields the inputs with which an operator is timed."""
    torch.manual_seed(0)
    ids = documents_of(documents, shape.length, device)
    layer = Layer(shape, documents, ids, documents, ids, DTYPE, device)
    for operator_input in make_inputs(operator, layer):
        if operator_input.timed:
            yield Case(operator, operator_input.size, operator_input.arguments)


def ceilings_of(rows: Rows) -> dict[str, float]:
    """Returns the rates that ceilings.py has measured, by name: "copy" in bytes and "exp2" in numbers a second."""
    return {row["ceiling"]: row["a second"] for row in rows.read("ceilings") if "a second" in row}


@torch.no_grad()
def add_case(rows: Rows, case: Case, backend: str, stopwatch: Stopwatch, rates: dict[str, float]) -> None:
    """Adds the row of an operator on a backend."""
    row = {"operator": case.title, "size": case.name, "backend": backend}
    rows.add(TABLE, row, lambda: _measure_case(case, backend, stopwatch, rates))


def _measure_case(case: Case, backend: str, stopwatch: Stopwatch, rates: dict[str, float]) -> dict[str, object]:
    """Returns the measured columns of an operator on a backend.

    Args:
        case: the call of the operator.
        backend: a backend, or "torch.compile".
        stopwatch: times the call.
        rates: the device's highest rates. A fraction is None if its rate is missing.
    """
    run, device = case.on(backend), case.tensors[0].device
    outputs = run()
    memory = peak_bytes(run, device)
    row: dict[str, Any] = dict(quantiles(stopwatch.repeat(run)))
    moved = sum(x.nbytes for x in (*case.tensors, *outputs))
    row |= {"bytes": moved, "of copy rate": _fraction_of_rate(moved, row, rates.get("copy"))}
    if case.entry.arguments_type is not None:  # an operator on queries and keys
        exponentials = exponentials_of(case)
        row |= {
            "exponentials": exponentials,
            "of exp2 rate": _fraction_of_rate(exponentials, row, rates.get("exp2")),
        }
    names = launches(run, device)
    return row | {
        "launches": names and len(names),
        "kernels": names and {name[:LONGEST_NAME]: times for name, times in Counter(names).items()},
        "peak MB": memory and round((memory[1] - memory[0]) / 2**20, 1),
    }


def exponentials_of(case: Case) -> int:
    """Returns the number of exponentials: one for every query, visible key, and neuron of the query and key head."""
    batch, heads, length, size = case.tensors[0].shape
    return batch * (length * (length + 1) // 2) * 2 * heads * size


def _fraction_of_rate(work: int, row: dict[str, Any], rate: float | None) -> float | None:
    """Returns the rate of the work in the row's median time, divided by `rate`. None if `rate` is None."""
    return None if rate is None else round(1e3 * work / row["median ms"] / rate, 3)
