"""The error budget of the operators, in one place.

An operator may be at most twice as far from the exact result (float64) as plain PyTorch is in the same dtype, plus a
floor. Errors are relative, value by value; values under SMALL of the largest count as that large.
"""

import torch
from torch import Tensor

SMALL = 1e-6
FLOOR = {
    "column_energy": 5e-7,
    "value_energy": 2e-6,  # the terms of a sum over pairs of heads have both signs
    "gated_ffn": 2e-6,
    "gated_ffn, hidden": {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4},  # half the last place
    "nearest_neighbors": 3e-7,  # distances of float64 sums; equal indices
    "qk_importance": 4e-6,  # times 1 + the largest score, whose rounding every probability inherits
}
EXACT = 1e-11  # float64 against another float64 formulation


def error(actual: Tensor, exact: Tensor) -> float:
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


def within(operator: str, actual: Tensor, plain: Tensor, exact: Tensor, times: float = 1.0) -> None:
    """Fails if `actual` exceeds the operator's budget; `plain` is plain PyTorch's result in the same dtype."""
    floor = FLOOR[operator]
    floor = floor.get(actual.dtype, EXACT) if isinstance(floor, dict) else floor
    if exact.dtype == actual.dtype:
        floor = EXACT
    found, allowed = error(actual, exact), 2 * error(plain, exact) + floor * times
    assert found <= allowed, f"{operator}: error {found:.2e}, allowed {allowed:.2e}"
