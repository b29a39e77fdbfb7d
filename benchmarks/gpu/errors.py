"""Measures the errors of every operator against float64, and those of plain PyTorch in the same dtype.

The inputs are random or numerically difficult. The error budget is the registry's, as in the tests
(tests/support/error_budget.py): twice the error of plain PyTorch plus a floor.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import BACKEND, Workload, documents_of
from benchmarks.operators.inputs import Layer, make_inputs
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget, relative_error

MATRIX_DOCUMENTS, ATTENTION_DOCUMENTS = 3, 2


DTYPES = (torch.bfloat16, torch.float32)
WITH_KERNELS = tuple(name for name, entry in OPERATORS.items() if BACKEND in entry.kernels)


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for every case and dtype."""
    for dtype in DTYPES:
        for case in cases(WITH_KERNELS, workload, device):
            row = {"operator": case.title, "input": case.name, "dtype": str(dtype).removeprefix("torch.")}
            rows.add("errors", row, lambda case=case, dtype=dtype: compare(case.to(dtype), BACKEND))


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs."""
    return {
        f"errors of {name}, {str(dtype).removeprefix('torch.')}": partial(_call, name, dtype, workload, device)
        for dtype in DTYPES
        for name in sorted(WITH_KERNELS, key=lambda name: not OPERATORS[name].slow_to_compile)
    }


def _call(operator: str, dtype: torch.dtype, workload: Workload, device: torch.device) -> None:
    for case in cases((operator,), workload, device):
        case.to(dtype).on(BACKEND)()


def cases(operators: Iterable[str], workload: Workload, device: torch.device) -> Iterator[Case]:
    """Yields float32 cases of operators, for a small layer.

    The difficult ones have a column that is far larger than the others, a document without tokens, biases, or padding.
    """
    torch.manual_seed(0)
    shape = workload.small
    for operator in (OPERATORS[name] for name in operators):
        if operator.arguments_type is None:  # not on queries and keys, so on matrices
            ids = torch.randint(-1, MATRIX_DOCUMENTS - 1, (MATRIX_DOCUMENTS * shape.length,), device=device)
            common = {
                "documents": MATRIX_DOCUMENTS,
                "ids": ids,
                "sets": MATRIX_DOCUMENTS,
                "set_ids": ids,
                "masked": 0.4,
            }
            variants = {name: {**common, "change": change} for name, change in MATRICES.items()}
        else:
            ids = documents_of(ATTENTION_DOCUMENTS, shape.length, device)
            common = {"documents": ATTENTION_DOCUMENTS, "ids": ids, "sets": ATTENTION_DOCUMENTS, "set_ids": ids}
            variants = {name: {**common, "change_heads": change} for name, change in HEADS.items()}
            variants["a row of padding"] = {**common, "padded": True}
        for name, options in islice(variants.items(), workload.inputs):
            for operator_input in make_inputs(operator.name, Layer(shape, device=device, **options)):
                if operator_input.compared:
                    title = ", ".join(filter(None, (name, operator_input.variant)))
                    yield Case(operator.name, title, operator_input.arguments)


def _one_large_column(x: Tensor) -> Tensor:
    x[:, 3] *= 1e3
    return x


def _key_bias(q: Tensor, k: Tensor) -> None:
    k += 300 * torch.randn(k.shape[1], 1, k.shape[3], device=k.device).sign()


def _dominating_neuron(q: Tensor, k: Tensor) -> None:
    q[..., 3] = 60
    k[..., 3] = torch.linspace(-1, 1, k.shape[2], device=k.device).square()


MATRICES = {"random": lambda x: x, "a column of 1e3": _one_large_column}
HEADS = {"random": lambda q, k: None, "key bias 300": _key_bias, "one neuron of 60": _dominating_neuron}


def compare(case: Case, backend: str) -> dict[str, object]:
    """Returns the errors of every result of an operator, and whether all are within the budget.

    An estimate is compared with the exact values of what it estimates.
    """
    entry = case.entry
    # The public function of an estimate has the name of the operator that it estimates.
    true_case = replace(case, operator=entry.public_function) if entry.budget.is_estimate else case
    results = zip(
        true_case.entry.results,
        case.fresh().on(backend)(),
        true_case.fresh().on("torch")(),
        true_case.to(torch.float64).fresh().on("torch")(),
    )
    errors: dict[str, float] = {}
    plain_errors: dict[str, float] = {}
    within_budget: list[bool | None] = []
    for result, ours, plain, exact in results:
        errors[result] = float(f"{relative_error(ours, exact):.1e}")
        plain_errors[result] = float(f"{relative_error(plain, exact):.1e}")
        within_budget.append(_is_within(case, result, ours, plain, exact))
    return {
        "error": errors,
        "plain PyTorch": plain_errors,
        "within budget": None if None in within_budget else all(within_budget),
    }


def _is_within(case: Case, result: str, ours: Tensor, plain: Tensor, exact: Tensor) -> bool | None:
    """Returns whether a result is within the budget. None for estimates, whose own tests check them."""
    budget = case.entry.budget
    if budget.is_estimate:
        return None
    if result in budget.equal_to_reference:
        return torch.equal(ours, plain)
    try:
        assert_within_budget(case.operator, ours, plain, exact, case.arguments, result)
    except AssertionError:
        return False
    return True
