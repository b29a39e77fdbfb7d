"""centred_importance: query and key neurons whose heads pass a LayerNorm before the rotation.

A LayerNorm subtracts the mean, so that without x[n] every dimension of the head moves:

    y = g (x - m) / r + b,  m = mean(x),  r^2 = mean((x - m)^2) + eps;  without x[n]: m and r change, and so does every y

The heads without a neuron are made one neuron at a time: exact, and nothing larger than a few attention probabilities of
one document is made, but a product of queries and keys for every neuron of a head.
"""

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped, probability_change, visible
from pymultiling.mathematics.rotation import rotate
from pymultiling.mathematics.sums import upcast


def centred_importance(
    query: Tensor,
    key: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    q_eps: float,
    k_eps: float,
    cos: Tensor | None,
    sin: Tensor | None,
    valid: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    interleaved: bool,
) -> tuple[Tensor, Tensor]:
    query, key = upcast(query), upcast(key)
    kv_heads, size = key.shape[1], key.shape[3]
    of_q, of_k = query.new_zeros(query.shape[0], query.shape[1], size), key.new_zeros(*key.shape[:2], size)
    for b in range(len(query)):
        tokens = valid[b].nonzero().squeeze(1)
        tables = None if cos is None else tuple(x[b if len(x) > 1 else 0, tokens][None] for x in (cos, sin))
        heads = query[b, :, tokens].unflatten(0, (kv_heads, -1))  # (K, G, tokens, d)
        shared = key[b, :, tokens]
        raw = scale * heads @ shared[:, None].transpose(-1, -2)
        seen = visible(tokens, tokens, window)
        log_a = capped(raw, softcap).masked_fill(~seen, -torch.inf).log_softmax(-1)
        q_raw, k_raw = (x[b, tokens].unflatten(-1, (-1, size)).transpose(0, 1) for x in (q, k))
        for n in range(size):
            moved_q = _moved(q_raw, q_weight, q_eps, n, tables, interleaved).to(query.dtype).view_as(heads)
            moved_k = _moved(k_raw, k_weight, k_eps, n, tables, interleaved).to(key.dtype)
            y = scale * moved_q @ shared[:, None].transpose(-1, -2)
            of_q[b, :, n] = _change(raw, log_a, y, softcap).flatten()
            y = scale * heads @ moved_k[:, None].transpose(-1, -2)
            of_k[b, :, n] = _change(raw, log_a, y, softcap).sum(1)
    return of_q.flatten(1), of_k.flatten(1)


def _change(raw: Tensor, log_a: Tensor, y: Tensor, softcap: float | None) -> Tensor:
    if softcap is not None:
        y = capped(raw + y, softcap) - capped(raw, softcap)
    return probability_change(log_a, y).square().sum((-2, -1))


def _moved(
    x: Tensor, weight: Tensor, eps: float, n: int, tables: tuple[Tensor, Tensor] | None, interleaved: bool
) -> Tensor:
    """How far the normed and rotated heads move when dimension n of x (heads, tokens, d) is zero; float64."""
    x = x.double()
    without = x.clone()
    without[..., n] = 0
    moved = _normed(without, weight, eps) - _normed(x, weight, eps)
    if tables is None:
        return moved
    cos, sin = (table.double() for table in tables)
    return rotate(moved[None], cos, sin, interleaved)[0]


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm of heads (heads, tokens, d) but for its bias, which nothing moves."""
    weight = weight.double()
    x = x - x.mean(-1, keepdim=True)
    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x / r * (weight if weight.ndim == 1 else weight[:, None])
