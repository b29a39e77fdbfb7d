"""Computes what zeroing a query or key neuron does to the other heads, under a norm over all heads."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import Backend, all_valid
from pymultiling.ops.dispatch import call_tuple


def whole_norm_importance(
    q: Tensor,
    k: Tensor,
    q_rescale: Tensor,
    k_rescale: Tensor,
    valid: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    q_own: Tensor | None = None,
    k_own: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Computes what zeroing a query or key neuron does to the other heads, under a norm over all heads (OLMo2).

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y)
        query neuron n:  y_ij = t_in S_ij            key neuron n:  y_ij = t_jn S_ij

    S are the attention scores. The sum runs over the query heads other than the neuron's own (for a key neuron: over
    those that do not read its key head). Without the neuron the norm's mean square is smaller, so the rows of every
    other head grow by the factor 1 + t. The importance of the neuron is this result plus that of `qk_importance`, which
    covers the neuron's own head. It is the result if that is given as `q_own` and `k_own`. With a soft cap
    y = cap((1 + t) S) - cap(S).

    Where y is small, as under norms over many neurons, a few matrix products serve all neurons. Relative errors are
    then up to 1e-3 in float32 and up to 1e-6 in float64 in plain PyTorch, of the sum over the other heads. In C++ they
    are up to 2e-5 (1 + the largest attention score), of the result: the importance in the own head is usually
    thousands of times that in the others, so give it. Elsewhere y is computed for every key.

    Args:
        q: (B, H, l, d), the normed and rotated queries. Any floating dtype.
        k: (B, K, l, d), the normed and rotated keys in q's dtype. K divides H: query heads k G ... k G + G - 1 share
            key head k.
        q_rescale: (B, l, H d), t of every query neuron: sqrt(r^2 / (r^2 - x^2 / D)) - 1, where x is the raw projection
            and r^2 = mean(x^2) + eps is over the D neurons of the norm. At least 0. Any floating dtype.
        k_rescale: (B, l, K d), t of every key neuron: sqrt(r^2 / (r^2 - x^2 / D)) - 1, as for the queries. At least 0.
            Any floating dtype.
        valid: (B, l) bool, False for padding. None: all tokens are valid.
        scale: factor of the attention scores, usually d^-1/2.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
        softcap: attention scores become softcap * tanh(score / softcap). None: they are not capped.
        q_own: (B, H d), the importance of the query neurons in their own head, which is added to the result. Any
            floating dtype. None: it is left out.
        k_own: (B, K d), the same for the key neurons.
        backend: "auto", "cpp" or "torch".

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
        Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        BackendUnavailable: another backend was asked for.

    Source: arXiv 2402.18815, eq. 9-11.
    """
    if valid is None:
        valid = all_valid(q)
    q_importance, k_importance = call_tuple(
        "whole_norm_importance", q, k, q_rescale, k_rescale, valid, scale, window, softcap, q_own, k_own,
        backend=backend,
    )  # fmt: skip
    return q_importance, k_importance
