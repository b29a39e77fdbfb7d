"""Rotary position embeddings: the tables a layer gets, and turning heads by them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pymultiling.reference.qk_importance import rotation_pairs


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x (B, heads, l, d) turned by cos and sin (B or 1, l, r), r <= d: the first r dimensions, in pairs.

    x[n] becomes x[n] cos[n] - sign x[p] sin[n], p being the other dimension of n's pair and sign +1 for the first of it.
    """
    size, turned = x.shape[-1], cos.shape[-1]
    partner, sign = rotation_pairs(size, turned, interleaved, x.device)
    cos = F.pad(cos, (0, size - turned), value=1.0)[:, None]
    sin = F.pad(sin, (0, size - turned))[:, None]
    return x * cos - sign.to(x.dtype) * x[..., partner] * sin


def paired(table: Tensor) -> Tensor:
    """(.., r): angles 0 ... r/2 - 1, and these again -> each angle twice, for dimensions 2m and 2m + 1."""
    return table[..., : table.shape[-1] // 2].repeat_interleave(2, -1)
