"""Errors of every operator against float64, beside those of plain PyTorch in the same dtype; random and hostile inputs.

The budget is that of the tests (tests/support/error_budget.py): twice the error of plain PyTorch, and a floor.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import Workload, attention, kernels_of
from benchmarks.operators.shapes import Shape
from tests.support.error_budget import error, within

DOCUMENTS, ROWS = 3, 2  # of matrices, of attention
EXACT = ("active_count", "mask_neurons", "mask_neurons_")  # as plain PyTorch, bit for bit
RESULTS = {
    "gated_ffn": ("hidden", "squares", "active", "magnitude"),
    "column_energy": ("energy",),
    "active_count": ("active",),
    "value_energy": ("energy",),
    "mask_neurons": ("x",),
    "mask_neurons_": ("x",),
    "nearest_neighbors": ("indices", "distances"),
    "qk_importance": ("q", "k"),
}


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for case in cases(workload.small, device):
            row = {"operator": case.title, "input": case.name, "dtype": str(dtype).removeprefix("torch.")}
            rows.add("errors", row, lambda case=case, dtype=dtype: _errors(case.to(dtype), kernels_of(device)))


def cases(shape: Shape, device: torch.device) -> Iterator[Case]:
    """In float32. Hostile: a column far larger than the others, a document without tokens, biases, a padded row."""
    torch.manual_seed(0)
    for name, change in {"random": lambda x: x, "a column of 1e3": _one_large_column}.items():

        def matrix(width: int, change=change) -> Tensor:
            return change(torch.randn(DOCUMENTS * shape.length, width, device=device))

        documents = torch.randint(-1, DOCUMENTS - 1, (DOCUMENTS * shape.length,), device=device)
        masks = torch.rand(DOCUMENTS, shape.ffn, device=device) < 0.4
        group = shape.heads // shape.kv_heads
        gram = torch.randn(shape.kv_heads, shape.head_size, group, 2 * group, device=device)
        gate, up, hidden = matrix(shape.ffn), matrix(shape.ffn), matrix(shape.hidden)
        yield Case("gated_ffn", name, (gate, up, "silu", documents, DOCUMENTS, None, None))
        yield Case("gated_ffn", f"{name}, masks", (gate, up, "silu", documents, DOCUMENTS, masks, documents))
        yield Case("column_energy", name, (gate, documents, DOCUMENTS))
        yield Case("active_count", name, (gate, documents, DOCUMENTS))
        yield Case("value_energy", name, (hidden, gram @ gram.mT, documents, DOCUMENTS))
        yield Case("mask_neurons", name, (gate, masks, documents))
        yield Case("mask_neurons_", name, (up, masks, documents))
        for metric in ("cosine", "euclidean"):
            yield Case("nearest_neighbors", f"{name}, {metric}", (hidden, 5, metric))
    for name, change in {
        "random": lambda q, k: None,
        "key bias 300": _key_bias,
        "one neuron of 60": _dominating,
    }.items():
        yield from _qk(shape, name, attention(shape, ROWS, torch.float32, device, change))
    padded = attention(shape, ROWS, torch.float32, device)
    padded[6][0] = padded[6][1, : shape.length // 3] = False
    yield from _qk(shape, "a row of padding", padded)


def _qk(shape: Shape, name: str, arguments) -> Iterator[Case]:
    for mode in ("exact", "fast"):
        yield Case("qk_importance", name, (*arguments, shape.head_size**-0.5, None, None, False), mode)


def _one_large_column(x: Tensor) -> Tensor:
    x[:, 3] *= 1e3
    return x


def _key_bias(q: Tensor, k: Tensor) -> None:
    k += 300 * torch.randn(k.shape[1], 1, k.shape[3], device=k.device).sign()


def _dominating(q: Tensor, k: Tensor) -> None:
    q[..., 3] = 60
    k[..., 3] = torch.linspace(-1, 1, k.shape[2], device=k.device).square()


def _errors(case: Case, backend: str) -> dict:
    """Of every result of the operator, and whether all are within the budget."""
    plain_case = Case(case.operator, case.name, case.arguments, case.mode and "exact")
    every = zip(
        RESULTS[case.operator],
        _fresh(case).on(backend)(),
        _fresh(plain_case).on("torch")(),
        _fresh(plain_case.to(torch.float64)).on("torch")(),
    )
    found, beside, kept = {}, {}, []
    for result, ours, plain, exact in every:
        found[result] = float(f"{error(ours, exact):.1e}")
        beside[result] = float(f"{error(plain, exact):.1e}")
        kept.append(_within(case, result, ours, plain, exact))
    return {"error": found, "plain PyTorch": beside, "within budget": None if None in kept else all(kept)}


def _fresh(case: Case) -> Case:
    """On a copy of what the operator overwrites."""
    return Case(case.operator, case.name, (case.arguments[0].clone(), *case.arguments[1:]), case.mode)


def _within(case: Case, result: str, ours: Tensor, plain: Tensor, exact: Tensor) -> bool | None:
    """Whether the budget is kept; None for what approximates, whose budget is its own."""
    if case.mode == "fast":
        return None
    if case.operator in EXACT or result == "indices":
        return torch.equal(ours, plain)
    operator = "gated_ffn, hidden" if result == "hidden" else case.operator
    try:
        within(operator, ours, plain, exact, times=1 + largest_score(case))
    except AssertionError:
        return False
    return True


def largest_score(case: Case) -> float:
    """0 for an operator without scores."""
    if case.operator != "qk_importance":
        return 0.0
    q, k, scale = case.arguments[0].double(), case.arguments[1].double(), case.arguments[9]
    return float((scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT).abs().max())
