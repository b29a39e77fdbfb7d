"""Norms of queries and keys: what a neuron's zero does to its head when one comes before the rotation.

A RMSNorm divides by the root mean square, so without neuron n the rest of the head grows by a factor (`normed`), which
qk_importance takes. A LayerNorm subtracts the mean too, so that every dimension of the head moves, and by another amount:

    y = g (x - m) / r + b,  m = mean(x),  r^2 = mean((x - m)^2) + eps;  without x[n]: m and r change, and so does every y

The heads without a neuron are then made one neuron at a time, in plain PyTorch (`centred_importance`): exact, and nothing
larger than a few attention probabilities of one document is made, but a product of queries and keys for every neuron of a
head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pymultiling.mathematics.attention import capped, probability_change, visible
from pymultiling.mathematics.rotation import rotate
from pymultiling.mathematics.sums import wide
from pymultiling.probes.scores import Scores


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


def centred_importance(
    scores: Scores, q_norm: nn.Module, k_norm: nn.Module, valid: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """(B, H d) and (B, K d): importance of query and key neurons whose heads pass a LayerNorm before the rotation.

    valid: (B, l) bool, False for padding.
    """
    query, key = wide(scores.query), wide(scores.key)
    kv_heads, size = key.shape[1], key.shape[3]
    of_q, of_k = query.new_zeros(query.shape[0], query.shape[1], size), key.new_zeros(*key.shape[:2], size)
    for b in range(len(query)):
        tokens = valid[b].nonzero().squeeze(1)
        rotation = scores.rotation and tuple(one[b if len(one) > 1 else 0, tokens][None] for one in scores.rotation)
        heads = query[b, :, tokens].unflatten(0, (kv_heads, -1))  # (K, G, tokens, d)
        shared = key[b, :, tokens]
        raw = scores.scale * heads @ shared[:, None].transpose(-1, -2)
        seen = visible(tokens, tokens, scores.window)
        log_a = capped(raw, scores.softcap).masked_fill(~seen, -torch.inf).log_softmax(-1)
        q_raw, k_raw = (one[b, tokens].unflatten(-1, (-1, size)).transpose(0, 1) for one in (scores.q, scores.k))
        for n in range(size):
            moved_q = _moved(q_raw, q_norm, n, rotation, interleaved).to(query.dtype).view_as(heads)
            moved_k = _moved(k_raw, k_norm, n, rotation, interleaved).to(key.dtype)
            y = scores.scale * moved_q @ shared[:, None].transpose(-1, -2)
            of_q[b, :, n] = _change(raw, log_a, y, scores.softcap).flatten()
            y = scores.scale * heads @ moved_k[:, None].transpose(-1, -2)
            of_k[b, :, n] = _change(raw, log_a, y, scores.softcap).sum(1)
    return of_q.flatten(1), of_k.flatten(1)


def epsilon(norm: nn.Module) -> float:
    return norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps


def _change(raw: Tensor, log_a: Tensor, y: Tensor, softcap: float | None) -> Tensor:
    if softcap is not None:
        y = capped(raw + y, softcap) - capped(raw, softcap)
    return probability_change(log_a, y).square().sum((-2, -1))


def _moved(x: Tensor, norm: nn.Module, n: int, rotation: tuple[Tensor, Tensor] | None, interleaved: bool) -> Tensor:
    """How far the normed and rotated heads move when dimension n of x (heads, tokens, d) is zero; float64."""
    x = x.double()
    without = x.clone()
    without[..., n] = 0
    moved = _centred(without, norm) - _centred(x, norm)
    if rotation is None:
        return moved
    cos, sin = (one.double() for one in rotation)
    return rotate(moved[None], cos, sin, interleaved)[0]


def _centred(x: Tensor, norm: nn.Module) -> Tensor:
    """The norm of heads (heads, tokens, d) but for its bias, which nothing moves."""
    each = getattr(norm, "norms", None)  # one a head
    weight = norm.weight if each is None else torch.stack([one.weight for one in each])
    weight = weight.detach().double()
    x = x - x.mean(-1, keepdim=True)
    r = (x.square().mean(-1, keepdim=True) + epsilon(norm if each is None else each[0])).sqrt()
    return x / r * (weight if weight.ndim == 1 else weight[:, None])
