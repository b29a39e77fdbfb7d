"""Every operator at the sizes of one layer: time, share of what the device can do, launches, memory; and its rivals."""

import statistics
from collections import Counter

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

SOME_NEURONS = 8  # of one key head: as many as the reference of qk_importance is timed for
LONGEST_NAME = 80
TABLE = "operators"
TIMES_TO_KEEP = 1.2


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Ceilings, then the kernels beside plain PyTorch and what was published, and last what has to be compiled."""
    torch.manual_seed(0)
    backend, stopwatch = kernels_of(device), Stopwatch(device)
    ceilings = gpu_ceilings.measure(rows, stopwatch, workload, device)
    layer = cases(workload, device)
    by_bytes = [case for case, _ in layer if case.row.arguments_type is None]
    exact, fast = (case_of(layer, name) for name in ("qk_importance", "qk_estimate"))

    @torch.no_grad()
    def add(case: Case, backend: str) -> None:
        row = {"operator": case.title, "size": case.name, "backend": backend}
        rows.add(TABLE, row, lambda: _row(case, backend, stopwatch, ceilings))

    for case in by_bytes:
        add(case, backend)
        add(case, "torch")
    _add_copy(rows, case_of(layer, "gated_ffn"), stopwatch, ceilings)
    add(exact, backend)
    _add_reference_of_qk(rows, exact, stopwatch)
    _add_published(rows, exact, workload, backend, stopwatch)
    add(fast, backend)
    if device.type == "cuda":
        for case, loops in layer:
            if not loops:
                torch.compiler.reset()
                add(case, "torch.compile")
    add(exact, "cuda")  # last: if it breaks, it may take the device with it
    _add_cuda(rows, exact, workload, backend, stopwatch)


def cases(workload: Workload, device: torch.device) -> list[tuple[Case, bool]]:
    """Of every operator that has a kernel for the device; and whether its reference loops in Python."""
    count = workload.documents
    ids = documents_of(count, workload.shape.length, device)
    layer = Layer(workload.shape, count, ids, count, ids, DTYPE, device)
    return [
        (Case(operator, one.size, one.arguments), one.loops)
        for operator, row in OPERATORS.items()
        if kernels_of(device) in row.kernels
        for one in make_inputs(operator, layer)
        if one.timed
    ]


def case_of(layer: list[tuple[Case, bool]], operator: str) -> Case:
    """The operator's first one."""
    return next(case for case, _ in layer if case.operator == operator)


def _row(case: Case, backend: str, stopwatch: Stopwatch, ceilings: dict[str, float]) -> dict:
    run, device = case.on(backend), case.tensors[0].device
    outputs = run()
    memory = peak_bytes(run, device)
    row = quantiles(stopwatch.repeat(run))
    moved = sum(x.nbytes for x in (*case.tensors, *outputs))
    row |= {"bytes": moved, "of copy rate": _share(moved, row, ceilings.get("copy"))}
    if case.row.arguments_type is not None:
        exponentials = exponentials_of(case)
        row |= {"exponentials": exponentials, "of exp2 rate": _share(exponentials, row, ceilings.get("exp2"))}
    names = launches(run, device)
    return row | {
        "launches": names and len(names),
        "kernels": names and {name[:LONGEST_NAME]: times for name, times in Counter(names).items()},
        "peak MB": memory and round((memory[1] - memory[0]) / 2**20, 1),
    }


def exponentials_of(case: Case) -> int:
    """For every query and key that it sees, one for each neuron of the query head and one for each of its key head."""
    batch, heads, length, size = case.tensors[0].shape
    return batch * (length * (length + 1) // 2) * 2 * heads * size


def _share(work: int, row: dict, rate: float | None) -> float | None:
    return None if rate is None else round(1e3 * work / row["median ms"] / rate, 3)


def _add_copy(rows: Rows, case: Case, stopwatch: Stopwatch, ceilings: dict[str, float]) -> None:
    """A copy of as many bytes as gated_ffn moves: what the copy rate comes to at that size."""

    def measure() -> dict:
        gate = case.tensors[0]
        source = torch.randn(3 * gate.nbytes // 8, device=gate.device)
        target = torch.empty_like(source)
        row = quantiles(stopwatch.repeat(lambda: target.copy_(source)))
        return row | {"bytes": 2 * source.nbytes, "of copy rate": _share(2 * source.nbytes, row, ceilings.get("copy"))}

    rows.add(
        TABLE, {"operator": "copy_", "size": f"as many bytes as gated_ffn, {case.name}", "backend": "torch"}, measure
    )


def _add_reference_of_qk(rows: Rows, case: Case, stopwatch: Stopwatch) -> None:
    """It works on one neuron of one key head of one document after the other: some are timed, and scaled up to all."""
    (problem,), reference = case.arguments, case.row.reference()
    (batch, heads, _, size), kv_heads = problem.q.shape, problem.k.shape[1]
    parts, group = batch * kv_heads * size // SOME_NEURONS, heads // kv_heads
    heads_of = {"q": group, "k": 1, "q_plain": group, "k_plain": 1}
    some = problem._replace(
        **{name: getattr(problem, name)[:1, :count, :, :SOME_NEURONS] for name, count in heads_of.items()},
        **{name: getattr(problem, name)[..., :SOME_NEURONS] for name in ("cos", "sin")},
        valid=problem.valid[:1],
    )

    def measure() -> dict:
        return quantiles([parts * one for one in stopwatch.repeat(lambda: reference(some))])

    size = f"{SOME_NEURONS} neurons of a key head of a document, times {parts}"
    rows.add(TABLE, {"operator": case.title, "size": size, "backend": "torch"}, measure)


def _add_published(rows: Rows, case: Case, workload: Workload, backend: str, stopwatch: Stopwatch) -> None:
    """The published formulation of q, one head of one document scaled up to all, in turn with ours of q and k."""
    (problem,) = case.arguments
    parts = problem.q.shape[0] * problem.q.shape[1]
    one = (problem.q[:1, :1], problem.k[:1, :1], problem.scale)

    def measure() -> dict:
        runs = {"ours": case.on(backend), "published": lambda: published_q(*one)}
        took = stopwatch.in_turn(runs, workload.rounds)
        memory = peak_bytes(runs["published"], problem.q.device)
        return {
            "ours, q and k, ms": round(statistics.median(took["ours"]), 3),
            "published, q alone, ms": round(parts * statistics.median(took["published"]), 1),
            "times faster": round(parts * ratio(took, "published", "ours"), 1),
            "published, peak MB of a head": memory and round((memory[1] - memory[0]) / 2**20),
        }

    rows.add("q and k", {"published": f"one query head of one document, times {parts}"}, measure)


def _add_cuda(rows: Rows, case: Case, workload: Workload, backend: str, stopwatch: Stopwatch) -> None:
    """The kernel in CUDA C++ in turn with Triton's: it is kept if it is TIMES_TO_KEEP as fast."""

    def measure() -> dict:
        runs = {"cuda": case.on("cuda"), backend: case.on(backend)}
        took = stopwatch.in_turn(runs, workload.rounds)
        times = ratio(took, backend, "cuda")
        return {
            **{f"{name}, ms": round(statistics.median(took[name]), 3) for name in runs},
            "times as fast": round(times, 3),
            f"at least {TIMES_TO_KEEP}": times >= TIMES_TO_KEEP,
        }

    rows.add("CUDA C++", {"operator": case.title, "size": case.name}, measure)
