"""Measures alternatives to the kernels: plain PyTorch, torch.compile, Liger's SwiGLU, the published formulation."""

import statistics
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu import model as gpu_model
from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import Stopwatch, peak_bytes, quantiles
from benchmarks.gpu.model_runs import compile_forward, random_llama
from benchmarks.gpu.operators import MATRIX_OPERATORS, QK, add_case, cases, ceilings_of
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import BACKEND, FFN_V_O, FORWARD, RIVALS, Workload
from benchmarks.operators.published import published_q
from pymultiling.runtime.alternating import ratio

TIMED_NEURONS = 8  # neurons of one key head for which the reference of qk_importance is timed
LOOPS = ("nearest_neighbors",)  # the reference loops in Python, so that torch.compile would unroll it


@torch.no_grad()
def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds the published formulation first, then the operators and the model's forwards."""
    stopwatch, rates, shape = Stopwatch(device), ceilings_of(rows), workload.shape
    (exact,) = cases("qk_importance", shape, workload.documents, device)
    _add_published(rows, exact, workload, stopwatch)
    _add_reference_of_qk(rows, exact, stopwatch)
    (gated, *_) = cases("gated_ffn", shape, workload.documents, device)
    _add_liger(rows, gated, workload, stopwatch)
    for backend in ("torch", "torch.compile"):
        for operator in MATRIX_OPERATORS:
            for case in cases(operator, workload.shape_of(operator), workload.documents, device):
                if backend == "torch" or (operator not in LOOPS and device.type == "cuda"):
                    torch.compiler.reset()
                    add_case(rows, case, backend, stopwatch, rates)
    _add_forwards(rows, workload, device)


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs, but those of torch.compile."""
    calls = {name: partial(_call, name, workload, device) for name in (QK[0], "gated_ffn")}
    return calls | gpu_model.kernel_calls(workload, device)


def _call(operator: str, workload: Workload, device: torch.device) -> None:
    next(cases(operator, workload.shape, workload.documents, device)).on(BACKEND)()


def _add_published(rows: Rows, case: Case, workload: Workload, stopwatch: Stopwatch) -> None:
    """Adds the published formulation of q, run in turn with this package's kernel of q and k.

    It is timed for one head of one document and scaled up to all.
    """
    (problem,) = case.arguments
    parts = problem.q.shape[0] * problem.q.shape[1]
    one_head = (problem.q[:1, :1], problem.k[:1, :1], problem.scale)

    def measure() -> dict[str, object]:
        runs = {"ours": case.on(BACKEND), "published": lambda: published_q(*one_head)}
        times_by_run = stopwatch.in_turn(runs, workload.rounds)
        memory = peak_bytes(runs["published"], problem.q.device)
        return {
            "ours, q and k, ms": round(statistics.median(times_by_run["ours"]), 3),
            "published, q alone, ms": round(parts * statistics.median(times_by_run["published"]), 1),
            "times faster": round(parts * ratio(times_by_run, "published", "ours"), 1),
            "published, peak MB of a head": memory and round((memory[1] - memory[0]) / 2**20),
        }

    rows.add("q and k", {"published": f"one query head of one document, times {parts}"}, measure)


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
    rows.add("operators", {"operator": case.title, "size": size, "backend": "torch"}, measure)


def _add_liger(rows: Rows, case: Case, workload: Workload, stopwatch: Stopwatch) -> None:
    """Adds Liger's SwiGLU, which computes silu(gate) * up without statistics, in turn with gated_ffn."""

    def measure() -> dict[str, object]:
        try:
            from liger_kernel.ops.swiglu import LigerSiLUMulFunction
        except ImportError as error:
            raise SkipRow(f"Liger-Kernel is not installed ({error})") from error
        gate, up = case.tensors[:2]
        runs = {"gated_ffn": case.on(BACKEND), "Liger": lambda: LigerSiLUMulFunction.apply(gate, up)}
        times_by_run = stopwatch.in_turn(runs, workload.rounds)
        medians = {f"{name}, ms": round(statistics.median(times), 4) for name, times in times_by_run.items()}
        return medians | {"gated_ffn over Liger": round(ratio(times_by_run, "gated_ffn", "Liger"), 3)}

    rows.add("SwiGLU", {"size": case.name}, measure)


def _add_forwards(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds other ways to measure ffn, v and o, and other forwards of the model, in turn with the plain forward."""
    model = random_llama(workload.shape, workload.vocabulary, device)
    batch = (workload.documents, workload.shape.length)
    tokens = gpu_model.random_tokens(workload, batch, device)
    names = (FORWARD, FFN_V_O, *RIVALS)
    gpu_model.measure_times(rows, workload, workload.shape, model, tokens, names)
    if device.type == "cuda":
        compiled = random_llama(workload.shape, workload.vocabulary, device)
        more_runs = {"forward by torch.compile": compile_forward(compiled, tokens)}
        more_runs["forward by torch.compile"]()
        gpu_model.measure_times(rows, workload, workload.shape, model, tokens, (FORWARD,), more_runs=more_runs)
