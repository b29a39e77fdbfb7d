"""mask_neurons: y[t, n] = scale x[t, n] + values[n] where the set of row t has neuron n, and x[t, n] elsewhere."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.masking import apply_masks


def mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> Tensor:
    return apply_masks(x, masks, mask_ids, scale, values)


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> None:
    x.copy_(apply_masks(x, masks, mask_ids, scale, values))
