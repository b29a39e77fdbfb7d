"""centred_importance: query and key neurons whose heads pass a LayerNorm before the rotation.

The norm of a head x (d,), a projected query or key, is

    y = g (x - m) / r + b,  m = mean(x),  r^2 = mean((x - m)^2) + eps

If x[n] is set to zero, m and r change, and so does every dimension of y.

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
    """Computes sum_ij (A'_ij - A_ij)^2 for every query and key neuron. A' is A with the neuron zeroed before its norm.

    Args:
        query: (B, H, l, d), the normed and rotated queries.
        key: (B, K, l, d), the normed and rotated keys. K divides H.
        q: (B, l, H d), the queries before the norm.
        k: (B, l, K d), the keys before the norm.
        q_weight: (d,) or (H, d), g of the queries' norm.
        k_weight: (d,) or (K, d), g of the keys' norm.
        q_eps: eps of the queries' norm.
        k_eps: eps of the keys' norm.
        cos: (B or 1, l, r), the cosines of the rotation. None: no rotation.
        sin: (B or 1, l, r), the sines of the rotation. None: no rotation.
        valid: (B, l) bool, False for padding.
        scale: factor of the attention scores.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
        softcap: soft cap of the attention scores. None: they are not capped.
        interleaved: True if dimensions 2m and 2m + 1 are rotated together, False if dimensions m and m + r/2 are.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
        The importance of a key neuron is summed over the query heads that share its key head.
    """
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
        is_visible = visible(tokens, tokens, window)
        log_a = capped(scores, softcap).masked_fill(~is_visible, -torch.inf).log_softmax(-1)
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
    """Returns the squared change of the probabilities, summed over queries and keys.

    Args:
        scores: (.., queries, keys), attention scores before the cap.
        log_a: (.., queries, keys), log A.
        y: (.., queries, keys), change of the attention scores before the cap.
        softcap: soft cap of the attention scores. None: they are not capped.
    """
    return probability_change(log_a, capped_change(scores, y, softcap)).square().sum((-2, -1))


def _head_change(
    x: Tensor, weight: Tensor, eps: float, n: int, tables: tuple[Tensor, Tensor] | None, interleaved: bool
) -> Tensor:
    """Returns how much the normed and rotated heads change when dimension n of the projected heads is zeroed.

    Args:
        x: (heads, tokens, d), the projected heads.
        weight: (d,) or (heads, d), g of the norm.
        eps: eps of the norm.
        n: the dimension.
        tables: cosines and sines of the rotation, (1, tokens, r) each. None: no rotation.
        interleaved: True if dimensions 2m and 2m + 1 are rotated together, False if dimensions m and m + r/2 are.

    Returns:
        (heads, tokens, d) float64.
    """
    x = x.double()
    without = x.clone()
    without[..., n] = 0
    change = _norm(without, weight, eps) - _norm(x, weight, eps)
    if tables is None:
        return change
    cos, sin = (table.double() for table in tables)
    return rotate(change[None], cos, sin, interleaved)[0]


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Returns the norm of x (heads, tokens, d), without the bias, which cancels in a change."""
    weight = weight.double()
    x = x - x.mean(-1, keepdim=True)
    r = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x / r * (weight if weight.ndim == 1 else weight[:, None])
