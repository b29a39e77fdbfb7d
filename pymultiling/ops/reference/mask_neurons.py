"""mask_neurons: changes, in each row, the neurons of the set that is selected for the row.

y[t, n] = scale x[t, n] + values[n]    if mask_ids[t] >= 0 and masks[mask_ids[t], n]
y[t, n] = x[t, n]                      otherwise

With scale 0, x[t, n] is dropped even where it is NaN or infinite.
"""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.masking import apply_masks


def mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> Tensor:
    """Returns y.

    Args:
        x: (tokens, N).
        masks: (sets, N) bool, True where a neuron is in the set.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each row of x, -1 if the row stays as it is.
        scale: factor of the selected neurons. With 0, x is dropped even where it is NaN or infinite.
        values: (N,), added to the selected neurons. None: nothing is added.

    Returns:
        (tokens, N) in x's dtype.
    """
    return apply_masks(x, masks, mask_ids, scale, values)


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> None:
    """Overwrites x with y.

    Args:
        x: (tokens, N), overwritten.
        masks: (sets, N) bool, True where a neuron is in the set.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each row of x, -1 if the row stays as it is.
        scale: factor of the selected neurons. With 0, x is dropped even where it is NaN or infinite.
        values: (N,), added to the selected neurons. None: nothing is added.
    """
    x.copy_(apply_masks(x, masks, mask_ids, scale, values))
