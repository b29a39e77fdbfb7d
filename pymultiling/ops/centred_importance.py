"""Importance of query and key neurons whose heads pass a LayerNorm before the rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.ops.arguments import require, require_limits, require_tables, require_valid
from pymultiling.ops.dispatch import call


def centred_importance(
    query: Tensor,
    key: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    q_eps: float,
    k_eps: float,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Importance of query and key neurons whose heads pass a LayerNorm before the rotation (Cohere, Phi, StableLM).

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S)                              (arXiv 2402.18815, eq. 9-11)
        y = g (x - m) / r + b,   m = mean(x),   r^2 = mean((x - m)^2) + eps

    S are the scores of the rotated y, and A' comes of x with dimension n of a head at zero. Its mean and its norm are then
    others, so that every dimension of the head moves, which qk_importance's gains cannot say. The norm's bias moves
    nothing. Exact, with a product of queries and keys for every neuron of a head: its cost grows with l^2 d^2.

    Args:
        query: (B, H, l, d), normed and rotated queries; any floating dtype.
        key: (B, K, l, d), normed and rotated keys, K dividing H: query heads k G ... k G + G - 1 share key head k.
        q: (B, l, H d), x of the queries: as projected, before the norm.
        k: (B, l, K d), the same of the keys.
        q_weight, k_weight: g, (d,) for all heads, or (H, d) and (K, d).
        cos, sin: (B or 1, l, r), the rotation's tables, r <= d even: the first r dimensions turn. None: no rotation.
        valid: (B, l) bool, False for padding; None: all tokens are valid.
        q_eps, k_eps: eps of the two norms.
        scale: factor of the scores, usually d^-1/2.
        window: a query sees its own and the window - 1 positions before it; None: all before it.
        softcap: scores pass softcap * tanh(score / softcap); None: they do not.
        interleaved: True if dimensions 2m and 2m + 1 turn together, False if m and m + r/2 do.
        backend: "auto" or "torch": plain PyTorch runs it everywhere.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons; float32, float64 for float64 input. The norms are
        computed in float64. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit.
        BackendUnavailable: another backend was forced.
    """
    require(
        query.ndim == 4 and key.ndim == 4 and query.shape[0] == key.shape[0] and query.shape[2:] == key.shape[2:],
        f"query must be (B, H, l, d) and key (B, K, l, d), got {tuple(query.shape)} and {tuple(key.shape)}",
    )
    require(
        query.is_floating_point() and query.dtype == key.dtype,
        f"query and key must share a floating dtype: {query.dtype}, {key.dtype}",
    )
    require(
        key.shape[1] > 0 and query.shape[1] % key.shape[1] == 0,
        f"{query.shape[1]} query heads cannot share {key.shape[1]} keys",
    )
    _require_projection("q", q, q_weight, query)
    _require_projection("k", k, k_weight, key)
    require((cos is None) == (sin is None), "cos and sin go together")
    require_tables(cos, sin, query)
    require_valid(valid, query)
    require_limits(window, softcap)
    if valid is None:
        valid = torch.ones(query.shape[0], query.shape[2], dtype=torch.bool, device=query.device)
    return call(
        "centred_importance", query, key, q, k, q_weight, k_weight, float(q_eps), float(k_eps), cos, sin, valid,
        scale, window, softcap, interleaved, backend=backend,
    )  # fmt: skip


def _require_projection(name: str, x: Tensor, weight: Tensor, heads: Tensor) -> None:
    batch, count, length, size = heads.shape
    require(
        x.shape == (batch, length, count * size) and x.is_floating_point(),
        f"{name} must be floating point ({batch}, {length}, {count * size}), got {x.dtype} {tuple(x.shape)}",
    )
    require(
        weight.shape in ((size,), (count, size)),
        f"{name}_weight must be ({size},) or ({count}, {size}), got {tuple(weight.shape)}",
    )
