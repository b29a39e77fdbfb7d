"""The error budget of the operators, as the registry has it.

A kernel may be at most twice as far from the exact result (float64) as plain PyTorch is in the same dtype, plus a floor.
Errors are relative, value by value; values under SMALL of the largest count as that large.
"""

import torch
from torch import Tensor

from pymultiling.ops.registry import OPERATORS

SMALL = 1e-6
EXACT = 1e-11  # float64 against another float64 formulation


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest relative difference; infinite where NaN or infinity stand in different places."""
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
    return float(((actual - exact)[finite].abs() / size.clamp(min=SMALL * float(size.max()))).max())


def assert_within_budget(
    operator: str, actual: Tensor, plain: Tensor, exact: Tensor, arguments: tuple = (), result: str | None = None
) -> None:
    """Fails if `actual` exceeds the operator's budget.

    plain: plain PyTorch's result in the same dtype; arguments: the operator's, where its floor depends on them; result:
    its name, where it may have a floor of its own.
    """
    budget = OPERATORS[operator].budget
    floors = budget.result_floors.get(result)
    floor = budget.floor if floors is None else floors.get(actual.dtype, EXACT)
    if exact.dtype == actual.dtype:
        floor = EXACT
    times = 1.0 if budget.floor_factor is None else budget.floor_factor(*arguments)
    found, allowed = relative_error(actual, exact), 2 * relative_error(plain, exact) + floor * times
    assert found <= allowed, f"{operator}: error {found:.2e}, allowed {allowed:.2e}"
