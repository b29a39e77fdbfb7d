"""Changes the neurons of a set in every row of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pymultiling.mathematics.sums import upcast


def apply_masks(x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None) -> Tensor:
    """Returns y[t, n] = scale x[t, n] + values[n] where the set of row t has neuron n, and x[t, n] elsewhere.

    Args:
        x: (tokens, N), the activations of N neurons, any floating dtype.
        masks: (sets, N) bool, True where a neuron is in the set.
        mask_ids: (tokens,) int64, the set of each row. A row whose index is outside [0, sets), such as -1, stays as it
            is.
        scale: factor of the selected neurons. With 0, x is dropped even where it is NaN or infinite.
        values: (N,), or (tokens, N) if each row has its own values. None: nothing is added.
    """
    sets = masks.shape[0]
    padded = F.pad(masks, (0, 0, 0, 1))  # row `sets` is the empty set
    selected = padded[torch.where((mask_ids >= 0) & (mask_ids < sets), mask_ids, sets)]
    y = upcast(x) * scale if scale else x.new_zeros(1)
    if values is not None:
        y = y + upcast(values)
    return torch.where(selected, y.to(x.dtype), x)
