"""Changing the neurons of a set in every row of a batch."""

import torch
from torch import Tensor

from pymultiling.mathematics.sums import upcast


def apply_masks(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> Tensor:
    """y[t, n] = scale x[t, n] + values[n] where row t's set has neuron n, else x[t, n].

    Args:
        x: (tokens, N).
        masks: (sets, N) bool.
        mask_ids: (tokens,) int64, the set of each row; -1: the row stays as it is.
        scale: 0 drops x also where it is NaN or infinite.
        values: (N,), or (tokens, N) where rows have their own; None: nothing is added.
    """
    chosen = masks[mask_ids.clamp(min=0)] & (mask_ids >= 0)[:, None]
    y = upcast(x) * scale if scale else x.new_zeros(1)
    return torch.where(chosen, (y if values is None else y + upcast(values)).to(x.dtype), x)
