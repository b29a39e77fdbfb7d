"""Importance of every query and key neuron of an attention layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import require, require_limits, require_tables, require_valid
from pymultiling.ops.dispatch import call

MODES = ("exact", "fast")


class QKEstimate(NamedTuple):
    """Estimates of the importance of query and key neurons, and their standard errors.

    Attributes:
        q, q_error: (B, H d); float32, float64 for float64 input.
        k, k_error: (B, K d).
    """

    q: Tensor
    k: Tensor
    q_error: Tensor
    k_error: Tensor


def qk_importance(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None = None,
    k_plain: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    valid: Tensor | None = None,
    q_gain: Tensor | None = None,
    k_gain: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
    mode: str = "exact",
    backend: str = "auto",
) -> tuple[Tensor, Tensor] | QKEstimate:
    """Importance of every query and key neuron: the squared change of causal attention's probabilities.

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)       (arXiv 2402.18815, eq. 9-11)

    S are the scores; y_n is their change when neuron n's row of the projection is zero, before the rotation (q_plain and
    k_plain given) or after it (left out). One sweep over the scores serves any neuron,

        u = exp(y) - 1,  m = sum_j A u:   sum_j (A' - A)^2 = sum_j (A (u - m))^2 / (1 + m)^2,

    exact, and nothing of size l x l x d is made. A row of the batch is a document.

    mode="fast" estimates the sum over the keys j from at most 16 keys a row: the probable ones as they are, those above
    the lowest of 0.07 2^-m, m = 0 ... 7, that at most 8 pass, and of the rest, with mass M, R evenly spaced draws with
    probability in proportion to A, each weighing M / R,

        f = sum_j w_j A_j (v_j / Z - 1)^2,   v = exp(y),   Z = sum_j w_j v_j,     importance[n] = sum of f over the rows

    and its standard error, from the two halves of the draws. The draws are a function of the input, nothing is random;
    rows of 16 keys or fewer are exact. Take it where the ranking counts and documents are long: its cost grows with l,
    not with l^2 (scores aside). In the median it is off by 0.5%. What a neuron does to keys of small A alone, which come
    up when it is gone, is underestimated where none of them is drawn, and the standard error does not show it: that is
    so where attention is peaked and single neurons move scores by several units.

    Args:
        q: (B, H, l, d), rotated queries; any floating dtype.
        k: (B, K, l, d), rotated keys, K dividing H: query heads k G ... k G + G - 1 share key head k.
        q_plain, k_plain: as q and k, before the rotation but after their norm, if they have one. None: neurons are zeroed
            after the rotation, as the paper's published code does; then cos and sin are not used.
        cos, sin: (B or 1, l, r), the rotation's tables, r <= d even: the first r dimensions turn. None: no rotation.
        valid: (B, l) bool, False for padding; None: all tokens are valid.
        q_gain, k_gain: as q and k, where a norm over the head comes before the rotation: the factor by which the rest of
            the head grows when the neuron is gone, sqrt(r^2 / (r^2 - x^2 / d)) for the raw projection x with
            r^2 = mean(x^2) + eps. None: no norm.
        scale: factor of the scores, usually d^-1/2.
        window: a query sees its own and the window - 1 positions before it; None: all before it.
        softcap: scores pass softcap * tanh(score / softcap); None: they do not.
        interleaved: True if dimensions 2m and 2m + 1 turn together, False if m and m + r/2 do.
        mode: "exact" or "fast".
        backend: "auto", "triton", "cuda", "cpp" or "torch"; "cuda" is for bfloat16 without norms and soft caps.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons; float32, float64 for float64 input. With
        mode="fast" a QKEstimate: q, k and their standard errors q_error, k_error. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit; an unknown mode.
        BackendUnavailable: a forced backend cannot run here.
    """
    require(mode in MODES, f"mode must be one of {MODES}, got {mode!r}")
    problem = QKProblem(q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved)
    _check(problem)
    if valid is None:
        problem = problem._replace(valid=torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device))
    if q_plain is None:
        problem = problem._replace(cos=None, sin=None)
    if mode == "fast":
        return QKEstimate(*call("qk_estimate", problem, backend=backend))
    return call("qk_importance", problem, backend=backend)


def _check(problem: QKProblem) -> None:
    q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, _, window, softcap, _ = problem
    require(
        q.ndim == 4 and k.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[2:] == k.shape[2:],
        f"q must be (B, H, l, d) and k (B, K, l, d), got {tuple(q.shape)} and {tuple(k.shape)}",
    )
    require(q.is_floating_point() and q.dtype == k.dtype, f"q and k must share a floating dtype: {q.dtype}, {k.dtype}")
    require(k.shape[1] > 0 and q.shape[1] % k.shape[1] == 0, f"{q.shape[1]} query heads cannot share {k.shape[1]} keys")
    require((q_plain is None) == (k_plain is None), "q_plain and k_plain go together")
    require((cos is None) == (sin is None), "cos and sin go together")
    require(q_plain is not None or (q_gain is None and k_gain is None), "a gain needs q_plain and k_plain")
    for name, tensor, like in (
        ("q_plain", q_plain, q),
        ("q_gain", q_gain, q),
        ("k_plain", k_plain, k),
        ("k_gain", k_gain, k),
    ):
        require(tensor is None or tensor.shape == like.shape, f"{name} must be {tuple(like.shape)}")
    require_tables(cos, sin, q)
    require_valid(valid, q)
    require_limits(window, softcap)
