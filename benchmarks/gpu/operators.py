"""Measures every operator at the sizes of one layer, and alternatives to it.

The columns are times, fractions of the device's highest rates, launches and memory. Columns with "MB" are in MiB.
"""

import statistics
from collections import Counter
from typing import Any

import torch

from benchmarks.gpu import ceilings as gpu_ceilings
from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import DTYPE, Workload, documents_of, kernels_of
from benchmarks.measuring.alternating import ratio
from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.published import published_q
from pymultiling.ops.registry import OPERATORS

TIMED_NEURONS = 8  # neurons of one key head for which the reference of qk_importance is timed
LONGEST_NAME = 80
TABLE = "operators"
REQUIRED_SPEEDUP = 1.2  # of the kernel in CUDA C++ over the Triton kernel


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Measures the operators and appends the results to `rows`.

    First the device's highest rates are measured. Then every operator is measured with its kernel, with the reference
    in plain PyTorch and, on a GPU, with the compiled reference. For qk_importance the published formulation and the
    kernel in CUDA C++ are measured as well.
    """
    torch.manual_seed(0)
    backend, stopwatch = kernels_of(device), Stopwatch(device)
    ceilings = gpu_ceilings.measure(rows, stopwatch, workload, device)
    timed_cases = cases(workload, device)
    # Without a QKProblem: all operators with a kernel except those on queries and keys, which are added below.
    matrix_cases = [case for case, _ in timed_cases if case.entry.arguments_type is None]
    exact, fast = (case_of(timed_cases, name) for name in ("qk_importance", "qk_estimate"))

    @torch.no_grad()
    def add(case: Case, backend: str) -> None:
        row = {"operator": case.title, "size": case.name, "backend": backend}
        rows.add(TABLE, row, lambda: _measure_case(case, backend, stopwatch, ceilings))

    for case in matrix_cases:
        add(case, backend)
        add(case, "torch")
    _add_copy(rows, case_of(timed_cases, "gated_ffn"), stopwatch, ceilings)
    add(exact, backend)
    _add_reference_of_qk(rows, exact, stopwatch)
    _add_published(rows, exact, workload, backend, stopwatch)
    add(fast, backend)
    if device.type == "cuda":
        for case, loops in timed_cases:
            if not loops:
                torch.compiler.reset()
                add(case, "torch.compile")
    add(exact, "cuda")  # last, because a crash could make the device unusable
    _add_cuda(rows, exact, workload, backend, stopwatch)


def cases(workload: Workload, device: torch.device) -> list[tuple[Case, bool]]:
    """Returns cases of every operator that has a kernel for the device, and whether its reference loops in Python."""
    count = workload.documents
    ids = documents_of(count, workload.shape.length, device)
    layer = Layer(workload.shape, count, ids, count, ids, DTYPE, device)
    return [
        (Case(operator, operator_input.size, operator_input.arguments), operator_input.loops)
        for operator, entry in OPERATORS.items()
        if kernels_of(device) in entry.kernels
        for operator_input in make_inputs(operator, layer)
        if operator_input.timed
    ]


def case_of(timed_cases: list[tuple[Case, bool]], operator: str) -> Case:
    """Returns the first case of an operator."""
    return next(case for case, _ in timed_cases if case.operator == operator)


def _measure_case(case: Case, backend: str, stopwatch: Stopwatch, ceilings: dict[str, float]) -> dict[str, object]:
    """Returns the measured columns of an operator on a backend.

    Args:
        case: the call of the operator.
        backend: a backend, or "torch.compile".
        stopwatch: times the call.
        ceilings: the device's highest rates. A fraction is None if its rate is missing.
    """
    run, device = case.on(backend), case.tensors[0].device
    outputs = run()
    memory = peak_bytes(run, device)
    row: dict[str, Any] = dict(quantiles(stopwatch.repeat(run)))
    moved = sum(x.nbytes for x in (*case.tensors, *outputs))
    row |= {"bytes": moved, "of copy rate": _fraction_of_rate(moved, row, ceilings.get("copy"))}
    if case.entry.arguments_type is not None:  # an operator on queries and keys
        exponentials = exponentials_of(case)
        row |= {
            "exponentials": exponentials,
            "of exp2 rate": _fraction_of_rate(exponentials, row, ceilings.get("exp2")),
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


def _add_copy(rows: Rows, case: Case, stopwatch: Stopwatch, ceilings: dict[str, float]) -> None:
    """Adds a copy of as many bytes as gated_ffn moves: the copy rate that can be reached at that size."""

    def measure() -> dict[str, object]:
        gate = case.tensors[0]
        # gated_ffn moves three tensors of this size (gate, up and hidden). A copy moves every byte of its source twice,
        # so the source has 3/2 as many bytes, in float32.
        source = torch.randn(3 * gate.nbytes // 8, device=gate.device)
        target = torch.empty_like(source)
        row = quantiles(stopwatch.repeat(lambda: target.copy_(source)))
        return row | {
            "bytes": 2 * source.nbytes,
            "of copy rate": _fraction_of_rate(2 * source.nbytes, row, ceilings.get("copy")),
        }

    rows.add(
        TABLE, {"operator": "copy_", "size": f"as many bytes as gated_ffn, {case.name}", "backend": "torch"}, measure
    )


def _add_reference_of_qk(rows: Rows, case: Case, stopwatch: Stopwatch) -> None:
    """Adds the reference, which loops over the neurons of each head: a few neurons are timed and scaled up to all."""
    (problem,), reference = case.arguments, case.entry.reference()
    (batch, heads, _, size), kv_heads = problem.q.shape, problem.k.shape[1]
    parts, group = batch * kv_heads * size // TIMED_NEURONS, heads // kv_heads
    heads_of = {"q": group, "k": 1, "q_plain": group, "k_plain": 1}
    part = problem._replace(
        **{name: getattr(problem, name)[:1, :count, :, :TIMED_NEURONS] for name, count in heads_of.items()},
        **{name: getattr(problem, name)[..., :TIMED_NEURONS] for name in ("cos", "sin")},
        valid=problem.valid[:1],
    )

    def measure() -> dict[str, object]:
        return quantiles([parts * time for time in stopwatch.repeat(lambda: reference(part))])

    size = f"{TIMED_NEURONS} neurons of a key head of a document, times {parts}"
    rows.add(TABLE, {"operator": case.title, "size": size, "backend": "torch"}, measure)


def _add_published(rows: Rows, case: Case, workload: Workload, backend: str, stopwatch: Stopwatch) -> None:
    """Adds the published formulation of q, run alternately with this package's kernel of q and k.

    It is timed for one head of one document and scaled up to all.
    """
    (problem,) = case.arguments
    parts = problem.q.shape[0] * problem.q.shape[1]
    one_head = (problem.q[:1, :1], problem.k[:1, :1], problem.scale)

    def measure() -> dict[str, object]:
        runs = {"ours": case.on(backend), "published": lambda: published_q(*one_head)}
        times_by_run = stopwatch.in_turn(runs, workload.rounds)
        memory = peak_bytes(runs["published"], problem.q.device)
        return {
            "ours, q and k, ms": round(statistics.median(times_by_run["ours"]), 3),
            "published, q alone, ms": round(parts * statistics.median(times_by_run["published"]), 1),
            "times faster": round(parts * ratio(times_by_run, "published", "ours"), 1),
            "published, peak MB of a head": memory and round((memory[1] - memory[0]) / 2**20),
        }

    rows.add("q and k", {"published": f"one query head of one document, times {parts}"}, measure)


def _add_cuda(rows: Rows, case: Case, workload: Workload, backend: str, stopwatch: Stopwatch) -> None:
    """Adds the kernel in CUDA C++, run alternately with the Triton kernel.

    It must be REQUIRED_SPEEDUP times as fast to be worth keeping.
    """

    def measure() -> dict[str, object]:
        runs = {"cuda": case.on("cuda"), backend: case.on(backend)}
        times_by_run = stopwatch.in_turn(runs, workload.rounds)
        times = ratio(times_by_run, backend, "cuda")
        return {
            **{f"{name}, ms": round(statistics.median(times_by_run[name]), 3) for name in runs},
            "times as fast": round(times, 3),
            f"at least {REQUIRED_SPEEDUP}": times >= REQUIRED_SPEEDUP,
        }

    rows.add("CUDA C++", {"operator": case.title, "size": case.name}, measure)
