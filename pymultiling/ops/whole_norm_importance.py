"""What zeroing a query or key neuron does to the other heads, under a norm over all heads."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.ops.arguments import require, require_limits, require_valid
from pymultiling.ops.dispatch import call


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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """What zeroing a query or key neuron does to the other heads, under a norm over all heads (OLMo2).

        importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y)         (arXiv 2402.18815, eq. 9-11)
        query neuron n:  y_ij = t_in S_ij            key neuron n:  y_ij = t_jn S_ij

    summed over the query heads that are not the neuron's own (for a key neuron: that do not read its key head). Without
    the neuron the norm's mean square is smaller, and every other head's row grows by 1 + t. Added to what qk_importance
    gives for the neuron's own head this is its whole importance. With a soft cap y = cap((1 + t) S) - cap(S).

    Where y is small, which it is under wide norms, a few products of matrices serve all neurons; relative errors are then
    up to 1e-3 in float32 and 1e-6 in float64. Elsewhere y is laid out key by key.

    Args:
        q: (B, H, l, d), normed and rotated queries; any floating dtype.
        k: (B, K, l, d), normed and rotated keys, K dividing H: query heads k G ... k G + G - 1 share key head k.
        q_rescale: (B, l, H d), t of every query neuron: sqrt(r^2 / (r^2 - x^2 / D)) - 1 for the raw projection x, and
            r^2 = mean(x^2) + eps over the norm's D neurons. At least 0; any floating dtype.
        k_rescale: (B, l, K d), the same of the key neurons.
        valid: (B, l) bool, False for padding; None: all tokens are valid.
        scale: factor of the scores, usually d^-1/2.
        window: a query sees its own and the window - 1 positions before it; None: all before it.
        softcap: scores pass softcap * tanh(score / softcap); None: they do not.
        backend: "auto" or "torch": plain PyTorch runs it everywhere.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons; float32, float64 for float64 input. Not
        differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit.
        BackendUnavailable: another backend was forced.
    """
    require(
        q.ndim == 4 and k.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[2:] == k.shape[2:],
        f"q must be (B, H, l, d) and k (B, K, l, d), got {tuple(q.shape)} and {tuple(k.shape)}",
    )
    require(q.is_floating_point() and q.dtype == k.dtype, f"q and k must share a floating dtype: {q.dtype}, {k.dtype}")
    require(k.shape[1] > 0 and q.shape[1] % k.shape[1] == 0, f"{q.shape[1]} query heads cannot share {k.shape[1]} keys")
    for name, rescale, heads in (("q_rescale", q_rescale, q), ("k_rescale", k_rescale, k)):
        shape = (heads.shape[0], heads.shape[2], heads.shape[1] * heads.shape[3])
        fits = rescale.shape == shape and rescale.is_floating_point()
        require(fits, f"{name} must be floating point {shape}, got {rescale.dtype} {tuple(rescale.shape)}")
    require_valid(valid, q)
    require_limits(window, softcap)
    if valid is None:
        valid = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    return call("whole_norm_importance", q, k, q_rescale, k_rescale, valid, scale, window, softcap, backend=backend)
