"""Measures variants of qk_importance in turn: the Triton kernel and, where it supports them, that in CUDA C++."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.device_timing import Stopwatch
from benchmarks.gpu.errors import compare
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import BACKEND, DTYPE, Workload
from benchmarks.operators.attention import attention
from pymultiling.errors import BackendUnavailable
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.runtime.alternating import ratio

CUDA = "cuda"
GROUP = 4  # query heads per key head
USUAL_SIZE = 128  # dimensions of a head for the kinds of attention below
REQUIRED_SPEEDUP = 1.2  # of the kernel in CUDA C++ over the Triton kernel
CHECKED_DOCUMENTS = 2


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds the times of every variant, and then the errors of the kernel in CUDA C++."""
    stopwatch = Stopwatch(device)
    for name in variants(workload):
        case = _case(name, workload, workload.documents, device)
        row = {"variant": name, "size": case.name}
        rows.add("q and k variants", row, lambda case=case: _time(case, stopwatch, workload.rounds))
    small = replace(workload, shape=replace(workload.small, hidden=GROUP * USUAL_SIZE))
    for name, (_, dtype, _) in variants(workload).items():
        case = _case(name, small, CHECKED_DOCUMENTS, device)
        row = {"operator": case.title, "input": name, "dtype": str(dtype).removeprefix("torch."), "backend": CUDA}
        rows.add("errors", row, lambda case=case: compare(case, CUDA))


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs."""
    return {f"variant {name}": partial(_call, name, workload, device) for name in variants(workload)}


def _call(name: str, workload: Workload, device: torch.device) -> None:
    _case(name, workload, workload.documents, device).on(BACKEND)()


def variants(workload: Workload) -> dict[str, tuple[int, torch.dtype, Callable[[QKProblem], QKProblem]]]:
    """Returns {name: (dimensions of a head, dtype, function that changes the inputs)}."""
    usual = USUAL_SIZE if USUAL_SIZE in workload.head_sizes else workload.head_sizes[0]
    sizes = {f"heads of {size}": (size, DTYPE, _unchanged) for size in workload.head_sizes}
    return sizes | {
        f"heads of {usual}, zeroed after the rotation": (usual, DTYPE, _after_rotation),
        f"heads of {usual}, norm": (usual, DTYPE, _with_norm),
        f"heads of {usual}, soft cap": (usual, DTYPE, _with_softcap),
        f"heads of {usual}, float16": (usual, torch.float16, _unchanged),
        f"heads of {usual}, sinks": (usual, DTYPE, _with_sinks),
        f"heads of {usual}, both sides": (usual, DTYPE, _both_sides),
        f"heads of {usual}, biases": (usual, DTYPE, _with_biases),
    }


def _unchanged(problem: QKProblem) -> QKProblem:
    return problem


def _after_rotation(problem: QKProblem) -> QKProblem:
    return problem._replace(q_plain=None, k_plain=None, cos=None, sin=None)


def _with_norm(problem: QKProblem) -> QKProblem:
    return problem._replace(q_growth=torch.full_like(problem.q, 0.01), k_growth=torch.full_like(problem.k, 0.01))


def _with_softcap(problem: QKProblem) -> QKProblem:
    return problem._replace(softcap=50.0)


def _with_sinks(problem: QKProblem) -> QKProblem:
    return problem._replace(sinks=torch.zeros_like(problem.q[0, :, 0, 0]))


def _both_sides(problem: QKProblem) -> QKProblem:
    return problem._replace(causal=False)


def _with_biases(problem: QKProblem) -> QKProblem:
    length = problem.q.shape[2]
    return problem._replace(bias=torch.zeros(1, problem.q.shape[1], length, length, device=problem.q.device))


def _case(name: str, workload: Workload, documents: int, device: torch.device) -> Case:
    """Returns a variant's call for the width and length of the workload's layer."""
    size, dtype, change = variants(workload)[name]
    heads = max(workload.shape.hidden // size, GROUP)
    shape = replace(workload.shape, hidden=heads * size, heads=heads, kv_heads=heads // GROUP)
    torch.manual_seed(0)
    problem = change(attention(shape, documents, dtype, device))
    return Case("qk_importance", f"{documents} x {heads} heads, {shape.length} x {shape.length}", (problem,))


def _time(case: Case, stopwatch: Stopwatch, rounds: int) -> dict[str, object]:
    """Returns the times of both kernels and their ratio. The kernel in CUDA C++ must be REQUIRED_SPEEDUP as fast."""
    runs, reason = {BACKEND: case.on(BACKEND)}, ""
    try:
        case.on(CUDA)()
        runs[CUDA] = case.on(CUDA)
    except BackendUnavailable as error:
        reason = str(error)
    times_by_run = stopwatch.in_turn(runs, rounds)
    columns = {f"{name}, ms": round(statistics.median(times), 4) for name, times in times_by_run.items()}
    if reason:
        return columns | {"no CUDA C++": reason}
    times = ratio(times_by_run, BACKEND, CUDA)
    return columns | {
        "CUDA C++, times as fast": round(times, 3),
        f"at least {REQUIRED_SPEEDUP}": times >= REQUIRED_SPEEDUP,
    }
