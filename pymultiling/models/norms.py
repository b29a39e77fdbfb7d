"""Norms of queries and keys, as modules: what their operators take of them.

A RMSNorm divides by the root mean square, so without neuron n the rest of the head grows by a factor (`normed`), which
qk_importance takes. Under a LayerNorm every dimension of the head moves: of it centred_importance takes weight and epsilon.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normed(raw: Tensor, norm: nn.Module, multiplier: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Heads as they enter the rotation, and by what factor the rest grows without a neuron.

        plain = g x / r,  gain = sqrt(r^2 / (r^2 - x^2 / D)),  r^2 = mean(x^2) + eps

    Args:
        raw: (B, l, heads d), the projection x.
        norm: a RMSNorm of D neurons: of a head, or of all.
        multiplier: (D,), g.
        head_size: d.

    Returns:
        plain and gain, (B, heads, l, d) float64.
    """
    x = raw.double().unflatten(-1, (-1, multiplier.shape[-1]))  # r2 - x^2 / D cancels where one neuron dominates
    r2 = x.square().mean(-1, keepdim=True) + epsilon(norm)
    gain = (r2 / (r2 - x.square() / x.shape[-1])).sqrt()
    plain = x * r2.rsqrt() * multiplier
    return tuple(one.flatten(-2).unflatten(-1, (-1, head_size)).transpose(1, 2) for one in (plain, gain))


def epsilon(norm: nn.Module) -> float:
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


def centred_weight(norm: nn.Module) -> Tensor:
    """The weight of a LayerNorm over the head: (d,), or (heads, d) where every head has its own."""
    each = getattr(norm, "norms", None)
    return (norm.weight if each is None else torch.stack([head.weight for head in each])).detach()


def centred_epsilon(norm: nn.Module) -> float:
    each = getattr(norm, "norms", None)
    return epsilon(norm if each is None else each[0])
