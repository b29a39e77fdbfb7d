"""Computes the importance of every query and key neuron of an attention layer."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import MODES, Backend, Mode, all_valid
from pymultiling.ops.dispatch import call_tuple
from pymultiling.ops.requirements import require
from pymultiling.runtime.short_repr import short_repr


class QKEstimate(NamedTuple):
    """Estimates of the importance of query and key neurons, and how much two halves of the draws differ.

    All are float32, or float64 for float64 input.

    Attributes:
        q: (B, H d), the importance of the query neurons.
        k: (B, K d), the importance of the key neurons.
        q_error: (B, H d), the spread of q: the root of the sum over queries of ((f_even - f_odd) / 2)^2, from the even
            and the odd draws. It is not a standard error, because it leaves out the bias of the estimate.
        k_error: (B, K d), the spread of k.
    """

    q: Tensor
    k: Tensor
    q_error: Tensor
    k_error: Tensor

    def __repr__(self) -> str:
        return short_repr(self)


@overload
def qk_importance(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None = ...,
    k_plain: Tensor | None = ...,
    cos: Tensor | None = ...,
    sin: Tensor | None = ...,
    valid: Tensor | None = ...,
    q_growth: Tensor | None = ...,
    k_growth: Tensor | None = ...,
    *,
    scale: float,
    window: int | None = ...,
    softcap: float | None = ...,
    interleaved: bool = ...,
    sinks: Tensor | None = ...,
    causal: bool = ...,
    bias: Tensor | None = ...,
    mode: Literal["exact"] = ...,
    backend: Backend = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def qk_importance(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None = ...,
    k_plain: Tensor | None = ...,
    cos: Tensor | None = ...,
    sin: Tensor | None = ...,
    valid: Tensor | None = ...,
    q_growth: Tensor | None = ...,
    k_growth: Tensor | None = ...,
    *,
    scale: float,
    window: int | None = ...,
    softcap: float | None = ...,
    interleaved: bool = ...,
    sinks: Tensor | None = ...,
    causal: bool = ...,
    bias: Tensor | None = ...,
    mode: Literal["fast"],
    backend: Backend = ...,
) -> QKEstimate: ...


@overload
def qk_importance(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None = ...,
    k_plain: Tensor | None = ...,
    cos: Tensor | None = ...,
    sin: Tensor | None = ...,
    valid: Tensor | None = ...,
    q_growth: Tensor | None = ...,
    k_growth: Tensor | None = ...,
    *,
    scale: float,
    window: int | None = ...,
    softcap: float | None = ...,
    interleaved: bool = ...,
    sinks: Tensor | None = ...,
    causal: bool = ...,
    bias: Tensor | None = ...,
    mode: Mode,
    backend: Backend = ...,
) -> tuple[Tensor, Tensor] | QKEstimate: ...


def qk_importance(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None = None,
    k_plain: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    valid: Tensor | None = None,
    q_growth: Tensor | None = None,
    k_growth: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
    sinks: Tensor | None = None,
    causal: bool = True,
    bias: Tensor | None = None,
    mode: Mode = "exact",
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | QKEstimate:
    """Computes the importance of every query and key neuron: the squared change of attention probabilities.

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y_n)

    S are the attention scores. y_n is their change when neuron n's row of the projection is zero. Neurons are zeroed
    before the rotation if q_plain and k_plain are given, and after it otherwise. With

        u = exp(y) - 1,  mean = sum_j A u:   sum_j (A' - A)^2 = sum_j (A (u - mean))^2 / (1 + mean)^2

    one sweep over the attention scores is enough for each neuron. This is exact, and no tensor of size l x l x d is
    made. Each row of the batch is a document.

    mode="fast" estimates the sum over the keys j from at most 16 keys for each query. The certain keys have the weight
    w = A: those with A above the lowest of the thresholds 0.07, 0.07 / 2, ... 0.07 / 128 that at most 8 keys pass, or
    above 0.07 if there is none. From the other keys, whose A sum to M, R are drawn evenly spaced, with probability
    proportional to A, and each draw adds M / R to the weight of its key. R is 16 minus the number of the certain keys,
    rounded down to an even number. Then

        f = sum_j w_j A_j (v_j / Z - 1)^2,   v = exp(y),   Z = sum_j w_j v_j,   importance[n] = sum over queries of f

    The spread comes from the two halves of the draws. The draws are a function of the input and not random.
    Queries that see 16 keys or fewer are exact. Use this mode for long documents when the ranking of the neurons
    matters: its cost grows with l, not with l^2 (apart from the attention scores). Its median error is 0.5%. It has one
    limit: if a neuron only affects keys of small A, which gain probability without it, and none of these keys is drawn,
    the estimate is too small and the spread does not show it. This happens where attention is peaked and single
    neurons change attention scores by several units.

    Args:
        q: (B, H, l, d), the rotated queries. Any floating dtype. NaN at a valid token makes its head NaN. What an
            infinity makes of it depends on the backend.
        k: (B, K, l, d), the rotated keys in q's dtype. K divides H; with G = H / K, query heads g G
            to g G + G - 1 share key head g.
        q_plain: (B, H, l, d), the queries before the rotation but after their norm, if they have one. None: neurons are
            zeroed after the rotation, as in the published code of the paper; cos and sin are then not used.
        k_plain: (B, K, l, d), the keys before the rotation but after their norm. Given exactly if `q_plain` is.
        cos: (B or 1, l, r), the cosines of the rotation, r even and at most d: the first r dimensions are rotated.
            None: no rotation.
        sin: (B or 1, l, r), the sines of the rotation. Given exactly if `cos` is.
        valid: (B, l) bool, False for padding. None: all tokens are valid.
        q_growth: (B, H, l, d), for queries with a norm over the head before the rotation: the rest of the head grows by
            the factor 1 + growth without the neuron. With the raw projection x, r^2 = mean(x^2) + eps and
            s^2 = r^2 - x^2 / d, growth = (x^2 / d) / (s (r + s)). This form keeps the digits of a growth near 0. None:
            no norm.
        k_growth: (B, K, l, d), the same for the keys. None: no norm.
        scale: factor of the attention scores, usually d^-1/2. Attention scores beyond 2^24, which float32 rounds by
            more than 1, give importance without meaning, on a GPU NaN.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
            With causal=False: those whose distance from its own is below the window, or all.
        softcap: attention scores become softcap * tanh(score / softcap). None: they are not capped.
        interleaved: True if dimensions 2p and 2p + 1 are rotated together, False if dimensions p and p + r/2 are.
        sinks: (H,), the score of an attention sink of each query head (gpt-oss), floating. softmax weighs it beside the
            keys, and its probability is dropped, so that A of the keys sums to less than 1. It is not capped, and no
            neuron changes it. -inf: the head has no sink. None: no head has one.
        causal: whether a query sees no keys after its own. False: it sees keys on both sides, as in encoders.
        bias: (B or 1, H, l, l), floating, added to the attention scores (relative positions of T5), which have no soft
            cap then. No neuron changes it. None: nothing is added.
        mode: "exact" or "fast".
        backend: "auto", "triton", "cuda", "cpp" or "torch". "cuda" takes bfloat16 in causal
            attention without norms, soft caps, sinks and biases.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
        With mode="fast" a `QKEstimate`: q and k and their spreads q_error and k_error. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit, or the mode is unknown.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.18815, eq. 9-11.
    """
    require(mode in MODES, lambda: f"mode must be one of {MODES}, got {mode!r}")
    if valid is None:
        valid = all_valid(q)
    if q_plain is None:
        cos, sin = None, None
    settings = scale, window, softcap, interleaved, sinks, causal, bias
    problem = QKProblem(q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, *settings)
    if mode == "fast":
        return QKEstimate(*call_tuple("qk_estimate", problem, backend=backend))
    q_importance, k_importance = call_tuple("qk_importance", problem, backend=backend)
    return q_importance, k_importance
