"""Every operator at the sizes of one layer: time, share of what the device can do, launches, memory; and its rivals."""

import statistics
from collections import Counter

import torch
from torch import Tensor

from benchmarks.gpu import ceilings as gpu_ceilings
from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import DTYPE, Workload, attention, documents_of, kernels_of
from benchmarks.measuring.alternating import ratio
from benchmarks.operators.published import published_q
from pymultiling.ops import reference

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
    by_bytes = [case for case in layer if case.operator != "qk_importance"]
    exact, fast = (case for case in layer if case.operator == "qk_importance")

    @torch.no_grad()
    def add(case: Case, backend: str) -> None:
        row = {"operator": case.title, "size": case.name, "backend": backend}
        rows.add(TABLE, row, lambda: _row(case, backend, stopwatch, ceilings))

    for case in by_bytes:
        add(case, backend)
        add(case, "torch")
    _add_copy(rows, layer[0], stopwatch, ceilings)
    add(exact, backend)
    _add_reference_of_qk(rows, exact, stopwatch)
    _add_published(rows, exact, workload, backend, stopwatch)
    add(fast, backend)
    if device.type == "cuda":
        for case in by_bytes:
            if case.operator != "nearest_neighbors":  # whose reference has sizes that depend on values
                torch.compiler.reset()
                add(case, "torch.compile")
    add(exact, "cuda")  # last: if it breaks, it may take the device with it
    _add_cuda(rows, exact, workload, backend, stopwatch)


def cases(workload: Workload, device: torch.device) -> list[Case]:
    shape, tokens, count = workload.shape, workload.tokens, workload.documents

    def matrix(width: int) -> Tensor:
        return torch.randn(tokens, width, device=device, dtype=DTYPE)

    documents = documents_of(count, shape.length, device)
    gate, up, hidden = matrix(shape.ffn), matrix(shape.ffn), matrix(shape.hidden)
    points = torch.randn(8 * tokens, 224, device=device, dtype=DTYPE)
    masks = torch.rand(count, shape.ffn, device=device) < 0.01
    group = shape.heads // shape.kv_heads
    gram = torch.randn(shape.kv_heads, shape.head_size, group, group, device=device)
    qk = (*attention(shape, count, DTYPE, device), shape.head_size**-0.5, None, None, False)
    wide, narrow = f"{tokens} x {shape.ffn}", f"{tokens} x {shape.hidden}"
    scores = f"{count} x {shape.heads} heads, {shape.length} x {shape.length}"
    return [
        Case("gated_ffn", wide, (gate, up, "silu", documents, count, None, None)),
        Case("gated_ffn", f"{wide}, {count} masks", (gate, up, "silu", documents, count, masks, documents)),
        Case("column_energy", narrow, (hidden, documents, count)),
        Case("column_energy", wide, (gate, documents, count)),
        Case("active_count", wide, (gate, documents, count)),
        Case("value_energy", narrow, (hidden, gram, documents, count)),
        Case("mask_neurons", f"{wide}, {count} masks", (gate, masks, documents)),
        Case("mask_neurons_", f"{wide}, {count} masks", (up.clone(), masks, documents)),
        Case("nearest_neighbors", f"{len(points)} x {points.shape[1]}, 5 neighbours", (points, 5, "cosine")),
        Case("qk_importance", scores, qk, "exact"),
        Case("qk_importance", scores, qk, "fast"),
    ]


def _row(case: Case, backend: str, stopwatch: Stopwatch, ceilings: dict[str, float]) -> dict:
    run, device = case.on(backend), case.arguments[0].device
    outputs = run() or case.arguments[:1]
    memory = peak_bytes(run, device)
    row = quantiles(stopwatch.repeat(run))
    moved = sum(x.nbytes for x in (*case.arguments, *outputs) if isinstance(x, Tensor))
    row |= {"bytes": moved, "of copy rate": _share(moved, row, ceilings.get("copy"))}
    if case.operator == "qk_importance":
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
    batch, heads, length, size = case.arguments[0].shape
    return batch * (length * (length + 1) // 2) * 2 * heads * size


def _share(work: int, row: dict, rate: float | None) -> float | None:
    return None if rate is None else round(1e3 * work / row["median ms"] / rate, 3)


def _add_copy(rows: Rows, case: Case, stopwatch: Stopwatch, ceilings: dict[str, float]) -> None:
    """A copy of as many bytes as gated_ffn moves: what the copy rate comes to at that size."""

    def measure() -> dict:
        gate = case.arguments[0]
        source = torch.randn(3 * gate.nbytes // 8, device=gate.device)
        target = torch.empty_like(source)
        row = quantiles(stopwatch.repeat(lambda: target.copy_(source)))
        return row | {"bytes": 2 * source.nbytes, "of copy rate": _share(2 * source.nbytes, row, ceilings.get("copy"))}

    rows.add(
        TABLE, {"operator": "copy_", "size": f"as many bytes as gated_ffn, {case.name}", "backend": "torch"}, measure
    )


def _add_reference_of_qk(rows: Rows, case: Case, stopwatch: Stopwatch) -> None:
    """It works on one neuron of one key head of one document after the other: some are timed, and scaled up to all."""
    (batch, heads, _, size), kv_heads = case.arguments[0].shape, case.arguments[1].shape[1]
    parts, group = batch * kv_heads * size // SOME_NEURONS, heads // kv_heads
    some = (
        *(x[:1, :count, :, :SOME_NEURONS] for x, count in zip(case.arguments[:4], (group, 1, group, 1))),
        *(x[..., :SOME_NEURONS] for x in case.arguments[4:6]),
        case.arguments[6][:1],
        *case.arguments[7:],
    )

    def measure() -> dict:
        return quantiles([parts * one for one in stopwatch.repeat(lambda: reference.qk_importance(*some))])

    size = f"{SOME_NEURONS} neurons of a key head of a document, times {parts}"
    rows.add(TABLE, {"operator": case.title, "size": size, "backend": "torch"}, measure)


def _add_published(rows: Rows, case: Case, workload: Workload, backend: str, stopwatch: Stopwatch) -> None:
    """The published formulation of q, one head of one document scaled up to all, in turn with ours of q and k."""
    parts = case.arguments[0].shape[0] * case.arguments[0].shape[1]
    one = (case.arguments[0][:1, :1], case.arguments[1][:1, :1], case.arguments[9])

    def measure() -> dict:
        runs = {"ours": case.on(backend), "published": lambda: published_q(*one)}
        took = stopwatch.in_turn(runs, workload.rounds)
        memory = peak_bytes(runs["published"], case.arguments[0].device)
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
