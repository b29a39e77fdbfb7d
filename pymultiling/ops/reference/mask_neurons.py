"""mask_neurons: in each row of x the columns of that row's set, scaled and moved; rows of set -1 stay as they are."""

import torch
from torch import Tensor

from pymultiling.mathematics.sums import wide


def mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> Tensor:
    return torch.where(_chosen(masks, mask_ids), _changed(x, scale, values), x)


def mask_neurons_(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> None:
    x.copy_(mask_neurons(x, masks, mask_ids, scale, values))


def _chosen(masks: Tensor, mask_ids: Tensor) -> Tensor:
    """(tokens, N) bool: which cells change."""
    return masks[mask_ids.clamp(min=0)] & (mask_ids >= 0)[:, None]


def _changed(x: Tensor, scale: float, values: Tensor | None) -> Tensor:
    """scale x + values in x's dtype, (tokens, N) or broadcast to it; without scale even where x is NaN."""
    y = wide(x) * scale if scale else x.new_zeros(1)
    return (y if values is None else y + wide(values)).to(x.dtype)
