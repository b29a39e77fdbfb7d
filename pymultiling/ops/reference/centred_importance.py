"""centred_importance: query and key neurons whose heads pass a LayerNorm before the rotation.

The norm of a head x (d,), a projected query or key, is

    y = g (x - m) / r + b,  m = mean(x),  r^2 = mean((x - m)^2) + eps

If x[n] is set to zero, m and r become m' and r', and every dimension of y changes. The difference of the two norms has
no digits left in float32 where x[n] is small, or where the other dimensions' mean o is much larger than their
deviations D. With e = o - x[n], which becomes o without the neuron,

    x - m = D + e / d, and -e (d - 1) / d in dimension n,      r^2 = a + b e^2,  a = mean(D^2) + eps,  b = (d - 1) / d^2

(D is 0 in dimension n), so that with s = o^2 - e^2 = x[n] (o + e)

    y' - y = g (D (1/r' - 1/r) + (o/r' - e/r) / d), and -g (o/r' - e/r) (d - 1) / d in dimension n
    1/r' - 1/r = -b s / (r r' (r + r')),    o/r' - e/r = a s / (r r' (o r + e r')) where o and e have the same sign

The heads without a neuron are computed one neuron at a time. This is exact, and no tensor is larger than a few times
the attention probabilities of one document, but it takes a product of queries and keys for every neuron of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped_change, log_probabilities, probability_change, visible
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
    is_token = valid[:, None, :, None]
    query, key = (upcast(x).masked_fill(~is_token, 0) for x in (query, key))
    q_raw, k_raw = (
        torch.unflatten(upcast(x), -1, (-1, heads.shape[-1])).transpose(1, 2).masked_fill(~is_token, 0)
        for x, heads in ((q, query), (k, key))
    )
    kv_heads, size = key.shape[1], key.shape[3]
    q_importance = query.new_zeros(query.shape[0], query.shape[1], size)
    k_importance = key.new_zeros(*key.shape[:2], size)
    positions = torch.arange(query.shape[2], device=query.device)
    sees = visible(positions, positions, window)
    for b in range(len(query)):
        tables = None if cos is None or sin is None else (_table(cos, b), _table(sin, b))
        query_heads = torch.unflatten(query[b], 0, (kv_heads, -1))  # (K, G, l, d)
        key_heads = key[b]
        scores = scale * query_heads @ key_heads[:, None].transpose(-1, -2)
        log_a = log_probabilities(scores, sees & valid[b], softcap)
        for n in range(size):
            q_change = _head_change(q_raw[b], q_weight, q_eps, n, tables, interleaved).view_as(query_heads)
            k_change = _head_change(k_raw[b], k_weight, k_eps, n, tables, interleaved)
            y = scale * q_change.to(query.dtype) @ key_heads[:, None].transpose(-1, -2)
            q_importance[b, :, n] = _importance(scores, log_a, y, softcap, valid[b]).flatten()
            y = scale * query_heads @ k_change.to(key.dtype)[:, None].transpose(-1, -2)
            k_importance[b, :, n] = _importance(scores, log_a, y, softcap, valid[b]).sum(1)
    return q_importance.flatten(1), k_importance.flatten(1)


def _table(table: Tensor, b: int) -> Tensor:
    """Returns the table of document b, (1, l, r)."""
    return table[b if len(table) > 1 else 0][None]


def _importance(scores: Tensor, log_a: Tensor, y: Tensor, softcap: float | None, valid: Tensor) -> Tensor:
    """Returns the squared change of the probabilities, summed over queries and keys.

    Args:
        scores: (.., l, l), attention scores before the cap.
        log_a: (.., l, l), log A, NaN for a query of padding that sees no token.
        y: (.., l, l), change of the attention scores before the cap.
        softcap: soft cap of the attention scores. None: they are not capped.
        valid: (l,) bool, False for padding.
    """
    by_query = probability_change(log_a, capped_change(scores, y, softcap)).square().sum(-1)
    return by_query.masked_fill(~valid, 0).sum(-1)


def _head_change(
    x: Tensor, weight: Tensor, eps: float, n: int, tables: tuple[Tensor, Tensor] | None, interleaved: bool
) -> Tensor:
    """Returns how much the normed and rotated heads change when dimension n of the projected heads is zeroed.

    Args:
        x: (heads, l, d), the projected heads, in float32 or float64.
        weight: (d,) or (heads, d), g of the norm.
        eps: eps of the norm.
        n: the dimension.
        tables: cosines and sines of the rotation, (1, l, r) each. None: no rotation.
        interleaved: True if dimensions 2m and 2m + 1 are rotated together, False if dimensions m and m + r/2 are.

    Returns:
        (heads, l, d), in the dtype of x, or of the tables or the weight if it is wider.
    """
    size, removed = x.shape[-1], x[..., n, None]
    is_other = torch.arange(size, device=x.device) != n
    others = max(1, size - 1)
    mean = (x * is_other).sum(-1, keepdim=True) / others
    deviations = (x - mean) * is_other
    rest = deviations.sum(-1, keepdim=True) / others  # the rounding error of the mean, if it is much larger than r
    deviations = (deviations - rest) * is_other
    difference, mean = mean - removed + rest, mean + rest
    squares = removed * (mean + difference)
    a, b = deviations.square().mean(-1, keepdim=True) + eps, (size - 1) / size**2
    r, r_without = ((a + b * x.square()).sqrt() for x in (difference, mean))
    inverse_change = -b * squares / (r * r_without * (r + r_without))
    ratio_change = torch.where(
        mean * difference > 0,
        a * squares / (r * r_without * (mean * r + difference * r_without)),
        mean / r_without - difference / r,
    )
    share = (is_other.to(x.dtype) - others * (~is_other).to(x.dtype)) / size
    change = deviations * inverse_change + ratio_change * share
    change = change * upcast(weight if weight.ndim == 1 else weight[:, None])
    if tables is None:
        return change
    cos, sin = (upcast(table) for table in tables)
    return rotate(change[None], cos, sin, interleaved)[0]
