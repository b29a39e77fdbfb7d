"""Computes the importance of query and key neurons whose heads pass a LayerNorm before the rotation."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import Backend, all_valid
from pymultiling.ops.dispatch import call_tuple


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
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes the importance of query and key neurons whose heads pass a LayerNorm (Cohere, Phi, StableLM).

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S)
        y = g (x - m) / r + b,   m = mean(x),   r^2 = mean((x - m)^2) + eps

    x is a head of the projected queries or keys, y the same head after its LayerNorm, and S are the attention scores of
    the rotated y. A' is computed from x with dimension n at zero. Without this dimension m and r change, and with them
    every dimension of y. The gains that `qk_importance` takes cannot express this. The result is exact. In plain
    PyTorch it takes a product of queries and keys for every neuron of a head, so the cost grows with l^2 d^2. In C++ it
    grows with l^2 d.

    Args:
        query: (B, H, l, d), the normed and rotated queries. Any floating dtype.
        key: (B, K, l, d), the normed and rotated keys in query's dtype. K divides H: query heads k G ... k G + G - 1
            share key head k.
        q: (B, l, H d), x of the queries: as projected, before the norm. Any floating dtype.
        k: (B, l, K d), x of the keys: as projected, before the norm. Any floating dtype.
        q_weight: g of the queries' norm: (d,) for all heads, or (H, d).
        k_weight: g of the keys' norm: (d,) for all heads, or (K, d).
        cos: (B or 1, l, r), the cosines of the rotation, r even and at most d: the first r dimensions are rotated.
            None: no rotation.
        sin: (B or 1, l, r), the sines of the rotation. Given exactly if `cos` is.
        valid: (B, l) bool, False for padding. None: all tokens are valid.
        q_eps: eps of the queries' norm.
        k_eps: eps of the keys' norm.
        scale: factor of the attention scores, usually d^-1/2.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
        softcap: attention scores become softcap * tanh(score / softcap). None: they are not capped.
        interleaved: True if dimensions 2m and 2m + 1 are rotated together, False if dimensions m and m + r/2 are.
        backend: "auto", "cpp" or "torch". "cpp" takes heads in which no dimension has nearly all of the variance (100
            times that of all others).

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
        Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        BackendUnavailable: another backend was asked for.

    Source: arXiv 2402.18815, eq. 9-11.
    """
    if valid is None:
        valid = all_valid(query)
    q_importance, k_importance = call_tuple(
        "centred_importance", query, key, q, k, q_weight, k_weight, float(q_eps), float(k_eps), cos, sin, valid,
        scale, window, softcap, interleaved, backend=backend,
    )  # fmt: skip
    return q_importance, k_importance
