"""The error budget of the operators, with the floors of the registry.

The error of a kernel may be at most twice that of plain PyTorch in the same dtype, plus a floor. Errors are relative to
the exact (float64) result, value by value. Values below SMALL times the largest value count as that large.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.ops.operator import Budget
from pymultiling.ops.registry import OPERATORS

SMALL = 1e-6  # smallest ratio of a value to the largest one with which its error is compared
EXACT = 1e-11  # floor for results in float64, which is the dtype of the exact result too


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Returns the largest relative error of any value. It is infinite if NaN or infinities are in different places.

    Values below SMALL times the largest value count as that large. If all are 0, it is the sum of the absolute errors.
    """
    assert actual.shape == exact.shape, (actual.shape, exact.shape)
    if not exact.numel():
        return 0.0
    actual = actual.double()
    finite = exact.isfinite()
    same = torch.equal(actual[~finite].nan_to_num(7), exact[~finite].nan_to_num(7))
    if not same or not actual[finite].isfinite().all():
        return torch.inf
    size = exact[finite].abs()
    if not size.numel() or size.max() == 0:
        return float(actual[finite].abs().sum())
    smallest = max(SMALL * float(size.max()), torch.finfo(torch.float64).tiny)  # 0 where the largest is subnormal
    return float(((actual - exact)[finite].abs() / size.clamp(min=smallest)).max())


def assert_within_budget(
    operator: str,
    actual: Tensor,
    plain: Tensor,
    exact: Tensor,
    arguments: tuple[object, ...] = (),
    result: str | None = None,
) -> None:
    """Fails if the error of `actual` exceeds the operator's budget.

    Args:
        operator: name of the operator.
        actual: the kernel's result.
        plain: the result of plain PyTorch in the same dtype.
        exact: the result in float64.
        arguments: the operator's arguments, if its floor depends on them.
        result: name of the result, if it may have its own floor.
    """
    budget = OPERATORS[operator].budget
    floors = budget.result_floors.get(result)
    if actual.dtype == exact.dtype:
        floor = EXACT
    elif floors is not None:
        floor = floors[actual.dtype]
    else:
        floor = floor_of(budget, arguments)
    error, allowed = relative_error(actual, exact), 2 * relative_error(plain, exact) + floor
    assert error <= allowed, f"{operator}: error {error:.2e}, allowed {allowed:.2e}"


def floor_of(budget: Budget, arguments: tuple[object, ...]) -> float:
    """Returns the floor of results that have none of their own."""
    return budget.floor * (1.0 if budget.floor_factor is None else budget.floor_factor(*arguments))
