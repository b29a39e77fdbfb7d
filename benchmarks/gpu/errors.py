"""Errors of every operator against float64, beside those of plain PyTorch in the same dtype; random and hostile inputs.

The budget is the registry's, as the tests have it (tests/support/error_budget.py): twice the error of plain PyTorch, and a
floor.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import Workload, documents_of, kernels_of
from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.shapes import Shape
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget, relative_error

DOCUMENTS, ROWS = 3, 2  # of matrices, of attention


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for case in cases(workload.small, device):
            row = {"operator": case.title, "input": case.name, "dtype": str(dtype).removeprefix("torch.")}
            rows.add("errors", row, lambda case=case, dtype=dtype: _errors(case.to(dtype), kernels_of(device)))


def cases(shape: Shape, device: torch.device) -> Iterator[Case]:
    """In float32, of every operator that has a kernel for the device.

    Hostile: a column far larger than the others, a document without tokens, biases, a padded row.
    """
    torch.manual_seed(0)
    for operator in (row for row in OPERATORS.values() if kernels_of(device) in row.kernels):
        if operator.arguments_type is None:
            ids = torch.randint(-1, DOCUMENTS - 1, (DOCUMENTS * shape.length,), device=device)
            common = {"documents": DOCUMENTS, "ids": ids, "sets": DOCUMENTS, "set_ids": ids, "masked": 0.4}
            kinds = {name: {**common, "change": change} for name, change in MATRICES.items()}
        else:
            ids = documents_of(ROWS, shape.length, device)
            common = {"documents": ROWS, "ids": ids, "sets": ROWS, "set_ids": ids}
            kinds = {name: {**common, "change_heads": change} for name, change in HEADS.items()}
            kinds["a row of padding"] = {**common, "padded": True}
        for name, options in kinds.items():
            for one in make_inputs(operator.name, Layer(shape, device=device, **options)):
                if one.compared:
                    yield Case(operator.name, ", ".join(filter(None, (name, one.variant))), one.arguments)


def _one_large_column(x: Tensor) -> Tensor:
    x[:, 3] *= 1e3
    return x


def _key_bias(q: Tensor, k: Tensor) -> None:
    k += 300 * torch.randn(k.shape[1], 1, k.shape[3], device=k.device).sign()


def _dominating(q: Tensor, k: Tensor) -> None:
    q[..., 3] = 60
    k[..., 3] = torch.linspace(-1, 1, k.shape[2], device=k.device).square()


MATRICES = {"random": lambda x: x, "a column of 1e3": _one_large_column}
HEADS = {"random": lambda q, k: None, "key bias 300": _key_bias, "one neuron of 60": _dominating}


def _errors(case: Case, backend: str) -> dict:
    """Of every result of the operator, and whether all are within the budget.

    An estimate is compared with what it estimates.
    """
    row = case.row
    true_case = replace(case, operator=row.public_function) if row.budget.is_estimate else case
    every = zip(
        true_case.row.results,
        case.fresh().on(backend)(),
        true_case.fresh().on("torch")(),
        true_case.to(torch.float64).fresh().on("torch")(),
    )
    found, beside, kept = {}, {}, []
    for result, ours, plain, exact in every:
        found[result] = float(f"{relative_error(ours, exact):.1e}")
        beside[result] = float(f"{relative_error(plain, exact):.1e}")
        kept.append(_within(case, result, ours, plain, exact))
    return {"error": found, "plain PyTorch": beside, "within budget": None if None in kept else all(kept)}


def _within(case: Case, result: str, ours: Tensor, plain: Tensor, exact: Tensor) -> bool | None:
    """Whether the budget is kept; None for what approximates, whose budget is its own."""
    budget = case.row.budget
    if budget.is_estimate:
        return None
    if result in budget.exact:
        return torch.equal(ours, plain)
    try:
        assert_within_budget(case.operator, ours, plain, exact, case.arguments, result)
    except AssertionError:
        return False
    return True
