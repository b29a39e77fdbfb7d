"""centred_importance: query and key neurons whose heads pass a LayerNorm before the rotation.

A LayerNorm subtracts the mean, so without x[n] every dimension of the head changes:

    y = g (x - m) / r + b,  m = mean(x),  r^2 = mean((x - m)^2) + eps

Without x[n] both m and r change, and so does every y.

The heads without a neuron are computed one neuron at a time. This is exact, and no tensor is larger than a few times
the attention probabilities of one document, but it takes a product of queries and keys for every neuron of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped, capped_change, probability_change, visible
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
    q_importance = query.new_zeros(query.shape[0], query.shape[1], size)
    k_importance = key.new_zeros(*key.shape[:2], size)
    for b in range(len(query)):
        tokens = valid[b].nonzero().squeeze(1)
        tables = None if cos is None or sin is None else (_table(cos, b, tokens), _table(sin, b, tokens))
        query_heads = torch.unflatten(query[b, :, tokens], 0, (kv_heads, -1))  # (K, G, tokens, d)
        key_heads = key[b, :, tokens]
        scores = scale * query_heads @ key_heads[:, None].transpose(-1, -2)
        seen = visible(tokens, tokens, window)
        log_a = capped(scores, softcap).masked_fill(~seen, -torch.inf).log_softmax(-1)
        q_raw, k_raw = (torch.unflatten(x[b, tokens], -1, (-1, size)).transpose(0, 1) for x in (q, k))
        for n in range(size):
            q_change = _head_change(q_raw, q_weight, q_eps, n, tables, interleaved).to(query.dtype).view_as(query_heads)
            k_change = _head_change(k_raw, k_weight, k_eps, n, tables, interleaved).to(key.dtype)
            y = scale * q_change @ key_heads[:, None].transpose(-1, -2)
            q_importance[b, :, n] = _importance(scores, log_a, y, softcap).flatten()
            y = scale * query_heads @ k_change[:, None].transpose(-1, -2)
            k_importance[b, :, n] = _importance(scores, log_a, y, softcap).sum(1)
    return q_importance.flatten(1), k_importance.flatten(1)


def _table(table: Tensor, b: int, tokens: Tensor) -> Tensor:
    """Returns the rows of document b's tokens, (1, tokens, r)."""
    return table[b if len(table) > 1 else 0, tokens][None]


def _importance(scores: Tensor, log_a: Tensor, y: Tensor, softcap: float | None) -> Tensor:
    return probability_change(log_a, capped_change(scores, y, softcap)).square().sum((-2, -1))


def _head_change(
    x: Tensor, weight: Tensor, eps: float, n: int, tables: tuple[Tensor, Tensor] | None, interleaved: bool
) -> Tensor:
    """Returns the float64 change of the normed and rotated heads when dimension n of x (heads, tokens, d) is zeroed."""
    x = x.double()
    without = x.clone()
    without[..., n] = 0
    change = _norm(without, weight, eps) - _norm(x, weight, eps)
    if tables is None:
        return change
    cos, sin = (table.double() for table in tables)
    return rotate(change[None], cos, sin, interleaved)[0]


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Applies the norm to heads (heads, tokens, d) without its bias, which is the same with and without a neuron."""
    weight = weight.double()
    x = x - x.mean(-1, keepdim=True)
    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x / r * (weight if weight.ndim == 1 else weight[:, None])
