"""Switching neurons off in a batch, or scaling them, or setting them to given values."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.ops.arguments import require, require_masks, require_matrix
from pymultiling.ops.dispatch import TORCH_OPERATORS, call


def mask_neurons(
    x: Tensor,
    masks: Tensor,
    mask_ids: Tensor | None = None,
    *,
    scale: float = 0.0,
    values: Tensor | None = None,
    inplace: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Changes, in each row of x, the columns of that row's set: by default to zero.

        y[t, n] = scale x[t, n] + values[n] if mask_ids[t] >= 0 and masks[mask_ids[t], n] else x[t, n]

    Args:
        x: (tokens, N), any floating dtype; rows may be strided.
        masks: (sets, N) bool, True where a neuron is in the set.
        mask_ids: (tokens,) int64, the set of each token, -1 for none; None: set 0 for all.
        scale: what a chosen neuron is multiplied by; 0 switches it off, also where it is NaN or infinite.
        values: (N,) in x's dtype, what is added then, such as the neurons' means; None: nothing.
        inplace: write into x, which must not need a gradient, and return it.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        As x; sums of 16-bit numbers are made in float32. Differentiable in x with backend "auto" or "torch".

    Raises:
        ValueError: shapes or dtypes do not fit, or x needs a gradient and is to be overwritten.
        IndexError, RuntimeError: an id is outside [-1, sets). On a GPU such a set changes nothing.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("x", x)
    if mask_ids is None:
        mask_ids = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    require_masks(x, masks, mask_ids)
    require(
        values is None or (values.shape == x.shape[1:] and values.dtype == x.dtype),
        f"values must be ({x.shape[1]},) in {x.dtype}",
    )
    require(not (inplace and x.requires_grad and torch.is_grad_enabled()), "x needs a gradient: mask it out of place")
    name = "mask_neurons_" if inplace else "mask_neurons"
    result = call(name, x, masks, mask_ids, float(scale), values, backend=backend)
    return x if inplace else result


def _save(ctx, inputs, output) -> None:
    _, masks, mask_ids, ctx.scale, _ = inputs
    ctx.save_for_backward(masks, mask_ids)


def _gradient(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    return call("mask_neurons", grad, *ctx.saved_tensors, ctx.scale, None), None, None, None, None


TORCH_OPERATORS["mask_neurons"].register_autograd(_gradient, setup_context=_save)
