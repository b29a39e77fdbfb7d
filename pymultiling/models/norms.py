"""Norms of queries and keys: what the operators need of the modules.

An RMSNorm divides by the root mean square. Without neuron n, the other neurons of the head therefore grow by a factor
(the gain), which `normed` computes for qk_importance. Under a LayerNorm every dimension of the head changes;
centred_importance computes this from the norm's weight and epsilon.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pymultiling.models.pretrained import tensor_attribute


def normed(raw: Tensor, norm: nn.Module, multiplier: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Returns the normed heads, and by what factor the other neurons grow when one neuron is zero.

        plain = g x / r,  gain = sqrt(r^2 / (r^2 - x^2 / D)),  r^2 = mean(x^2) + eps

    Args:
        raw: (B, l, heads d), the output x of the projection.
        norm: an RMSNorm over D neurons: those of one head, or those of all heads.
        multiplier: (D,), g.
        head_size: d.

    Returns:
        plain and gain, (B, heads, l, d) float64. plain is not rotated yet.
    """
    # In float64, because r2 - x^2 / D cancels where one neuron dominates.
    x = torch.unflatten(raw.double(), -1, (-1, multiplier.shape[-1]))
    r2 = x.square().mean(-1, keepdim=True) + epsilon(norm)
    gain = (r2 / (r2 - x.square() / x.shape[-1])).sqrt()
    plain = x * r2.rsqrt() * multiplier
    return split_heads(plain.flatten(-2), head_size), split_heads(gain.flatten(-2), head_size)


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
