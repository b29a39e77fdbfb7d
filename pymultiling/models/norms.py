"""Norms of queries and keys: what the operators need of the modules.

An RMSNorm divides by the root mean square. Without neuron n, the other neurons of the head therefore grow, by the
factor 1 + growth. `normed` computes the growth for qk_importance, and `normed_behind_rotation` does so for norms behind
the rotation (HunYuan). Under a LayerNorm every dimension of the head changes; centred_importance computes this from the
norm's weight and epsilon.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pymultiling.mathematics.rotation import rotate
from pymultiling.mathematics.sums import upcast
from pymultiling.models.pretrained import tensor_attribute


def normed(raw: Tensor, norm: nn.Module, multiplier: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Returns the normed heads, and by how much the other neurons grow when one neuron is zero.

        plain = g x / r,  r^2 = sum(x^2) / D + eps,  s^2 = (sum of the other neurons' x^2) / D + eps
        growth = r / s - 1 = (x^2 / D) / (s (r + s))

    The last form keeps the digits of a growth near 0.

    Args:
        raw: (B, l, heads d), the output x of the projection.
        norm: an RMSNorm over D neurons: those of one head, or those of all heads.
        multiplier: (D,), g.
        head_size: d.

    Returns:
        plain and growth, (B, heads, l, d), in float32, or in float64 for float64 input. plain is not rotated yet. The
        relative error of both is a few times that of the sum of the squares, also where one neuron dominates.
    """
    x = torch.unflatten(upcast(raw), -1, (-1, multiplier.shape[-1]))
    shares = x.square() / x.shape[-1]
    total = shares.sum(-1, keepdim=True)
    r = (total + epsilon(norm)).sqrt()
    s = (_sums_of_others(shares, total) + epsilon(norm)).sqrt()
    growth = shares / (s * (r + s))
    plain = x / r * multiplier
    return split_heads(plain.flatten(-2), head_size), split_heads(growth.flatten(-2), head_size)


class RotatedAndNormed(NamedTuple):
    """Heads of an RMSNorm behind the rotation: the norm gives `multiplier` times `rotated`.

    Attributes:
        plain: (B, heads, l, d), the heads before the rotation, divided by the root mean square.
        growth: (B, heads, l, d), as `normed` gives it.
        rotated: (B, heads, l, d), `plain` after the rotation.
        rotation: cosines and sines, (B or 1, l, r) each, that turn `plain` into `rotated`.
        multiplier: (d,).
    """

    plain: Tensor
    growth: Tensor
    rotated: Tensor
    rotation: tuple[Tensor, Tensor]
    multiplier: Tensor


def normed_behind_rotation(
    raw: Tensor, norm: nn.Module, multiplier: Tensor, rotation: tuple[Tensor, Tensor], interleaved: bool
) -> RotatedAndNormed:
    """Returns the heads that are rotated and then normed, and by how much the others grow when one neuron is zero.

    A rotation keeps the sum of the squares of a pair, so that the growth is that of a norm before the rotation. Tables
    that are cosines and sines times a factor (YaRN's) multiply the pair by f = sqrt(cos^2 + sin^2). Here f goes to the
    heads, and the tables are divided by it.

    Args:
        raw: (B, l, heads d), the output of the projection.
        norm: an RMSNorm over one head.
        multiplier: (d,), what it multiplies by.
        rotation: cosines and sines, (B or 1, l, r) each.
        interleaved: as in `Family`.
    """
    (size,) = multiplier.shape
    heads = torch.unflatten(upcast(raw), -1, (-1, size))
    cos, sin = (upcast(table).to(heads.dtype) for table in rotation)
    factors = (cos.square() + sin.square()).sqrt()
    heads = heads * nn.functional.pad(factors, (0, size - factors.shape[-1]), value=1.0)[:, :, None]
    plain, growth = normed(heads.flatten(2), norm, torch.ones_like(multiplier), size)
    tables = cos / factors, sin / factors
    return RotatedAndNormed(plain, growth, rotate(plain, *tables, interleaved), tables, upcast(multiplier))


def _sums_of_others(x: Tensor, total: Tensor) -> Tensor:
    """Returns for every element of a row the sum of the other elements.

    An element of at most half of the sum is subtracted from the sum, which at most doubles the relative error of the
    sum. Of a row's elements at most one is larger. The sum of the others is then added up without it, because a
    difference would have no digits left where one element has nearly all of the sum.

    Args:
        x: (.., D), at least 0.
        total: (.., 1), its sum over the last dimension.

    Returns:
        (.., D).
    """
    is_dominant = 2 * x > total
    rest = x.masked_fill(is_dominant, 0).sum(-1, keepdim=True)
    return torch.where(is_dominant, rest, total - x)


def split_heads(x: Tensor, head_size: int) -> Tensor:
    """Splits the last dimension into heads: (B, l, heads d) -> (B, heads, l, d), where d is `head_size`."""
    return torch.unflatten(x, -1, (-1, head_size)).transpose(1, 2)


def epsilon(norm: nn.Module) -> float:
    """Returns the epsilon of a norm."""
    return cast("float", norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def centred_weight(norm: nn.Module) -> Tensor:
    """Returns the weight of a LayerNorm over the head: (d,), or (heads, d) where every head has its own weight."""
    head_norms = _norms_of_heads(norm)
    if head_norms is None:
        return tensor_attribute(norm, "weight").detach()
    return torch.stack([tensor_attribute(head_norm, "weight") for head_norm in head_norms]).detach()


def centred_epsilon(norm: nn.Module) -> float:
    """Returns the epsilon of a LayerNorm over the head."""
    head_norms = _norms_of_heads(norm)
    return epsilon(norm if head_norms is None else head_norms[0])


def _norms_of_heads(norm: nn.Module) -> nn.ModuleList | None:
    """Returns the norm of every head, or None where one norm serves all heads."""
    return getattr(norm, "norms", None)
