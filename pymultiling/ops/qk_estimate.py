"""The operator behind qk_importance's fast mode; its arguments are those of torch.ops.pymultiling.qk_importance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.ops.dispatch import implementation


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


@torch.library.custom_op("pymultiling::qk_estimate", mutates_args=())
def qk_estimate(
    q: Tensor,
    k: Tensor,
    q_plain: Tensor | None,
    k_plain: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    valid: Tensor,
    q_gain: Tensor | None,
    k_gain: Tensor | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    interleaved: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return implementation("qk_estimate", q)(
        q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved
    )


@qk_estimate.register_fake
def _(q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved):
    dtype = torch.promote_types(q.dtype, torch.float32)
    q_shape = (q.shape[0], q.shape[1] * q.shape[3])
    k_shape = (q.shape[0], k.shape[1] * k.shape[3])
    return tuple(
        x.new_empty(shape, dtype=dtype) for x, shape in ((q, q_shape), (k, k_shape), (q, q_shape), (k, k_shape))
    )
