"""Rotary position embeddings: the tables a layer gets, and turning heads by them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_pairs(size: int, rotated: int, interleaved: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each dimension of a head its partner under the rotation, and +1 (first of the pair) or -1 (second).

    Only the first `rotated` dimensions turn; the others are their own partners.
    """
    partner = torch.arange(size, device=device)
    sign = torch.ones(size, device=device)
    if interleaved:
        first, second = partner[:rotated:2].clone(), partner[1:rotated:2].clone()
    else:
        first, second = partner[: rotated // 2].clone(), partner[rotated // 2 : rotated].clone()
    partner[first], partner[second] = second, first
    sign[second] = -1
    return partner, sign


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x (B, heads, l, d) turned by cos and sin (B or 1, l, r), r <= d: the first r dimensions, in pairs.

    x[n] becomes x[n] cos[n] - sign x[p] sin[n], p being the other dimension of n's pair and sign +1 for the first of it.
    """
    size, turned = x.shape[-1], cos.shape[-1]
    partner, sign = rotation_pairs(size, turned, interleaved, x.device)
    cos = F.pad(cos, (0, size - turned), value=1.0)[:, None]
    sin = F.pad(sin, (0, size - turned))[:, None]
    return x * cos - sign.to(x.dtype) * x[..., partner] * sin


def repeat_for_pairs(table: Tensor) -> Tensor:
    """(.., r): angles 0 ... r/2 - 1, and these again -> each angle twice, for dimensions 2m and 2m + 1."""
    return table[..., : table.shape[-1] // 2].repeat_interleave(2, -1)
