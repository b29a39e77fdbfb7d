"""Rotary position embeddings: which dimensions form pairs, and the rotation of heads by tables of cosines and sines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotation_pairs(size: int, rotated: int, interleaved: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns, for each dimension n of a head, its partner p and its sign s in x[n] cos[n] - s x[p] sin[n].

    Args:
        size: number of dimensions of a head.
        rotated: number of dimensions that are rotated: the first ones. Each dimension after them is its own partner.
        interleaved: True if dimensions 2m and 2m + 1 form a pair, False if dimensions m and m + rotated/2 do.
        device: device of the results.

    Returns:
        (size,) int64, the partners, and (size,) float32, the signs: -1 for the second of a pair, +1 for the first and
        for dimensions that are not rotated.
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
    """Rotates the first r dimensions of the heads, in pairs.

    x[n] becomes x[n] cos[n] - sign x[p] sin[n], where p is the other dimension of n's pair and sign is +1 for the first
    of the pair and -1 for the second.

    Args:
        x: (B, heads, l, d).
        cos: (B or 1, l, r), cosines, r even and at most d.
        sin: (B or 1, l, r), sines.
        interleaved: True if dimensions 2m and 2m + 1 form a pair, False if dimensions m and m + r/2 do.

    Returns:
        (B, heads, l, d), the rotated heads.
    """
    size, rotated = x.shape[-1], cos.shape[-1]
    partner, sign = rotation_pairs(size, rotated, interleaved, x.device)
    cos = F.pad(cos, (0, size - rotated), value=1.0)[:, None]
    sin = F.pad(sin, (0, size - rotated))[:, None]
    return x * cos - sign.to(x.dtype) * x.index_select(-1, partner) * sin


def repeat_for_pairs(table: Tensor) -> Tensor:
    """Reorders a table for pairs of dimensions m and m + r/2 into one for pairs of dimensions 2m and 2m + 1.

    Args:
        table: (..., r), the values of the angles 0 ... r/2 - 1, followed by the same values.

    Returns:
        (..., r), each value followed by itself: angles 0, 0, 1, 1, ..., r/2 - 1, r/2 - 1.
    """
    return table[..., : table.shape[-1] // 2].repeat_interleave(2, -1)
