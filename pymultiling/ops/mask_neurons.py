"""Switches neurons off in a batch, scales them, or sets them to given values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pymultiling.ops.arguments import Backend
from pymultiling.ops.dispatch import TORCH_OPERATORS, call, call_in_place
from pymultiling.ops.requirements import require


def mask_neurons(
    x: Tensor,
    masks: Tensor,
    mask_ids: Tensor | None = None,
    *,
    scale: float = 0.0,
    values: Tensor | None = None,
    inplace: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Changes, in each row of x, the neurons of the set that is selected for the row. By default they become zero.

        y[t, n] = scale x[t, n] + values[n]    if mask_ids[t] >= 0 and masks[mask_ids[t], n]
        y[t, n] = x[t, n]                      otherwise

    Args:
        x: (tokens, N), any floating dtype and any strides.
        masks: (sets, N) bool, True where a neuron is in the set.
        mask_ids: (tokens,) int64, the set (row of `masks`) of each token, -1 for none. None: set 0 for all tokens.
        scale: factor of a selected neuron. 0 switches the neuron off, even where it is NaN or infinite.
        values: (N,) in x's dtype, added to the selected neurons, for example their means. None: nothing is added.
        inplace: write the result into x and return x, which must not need a gradient.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (tokens, N) in x's dtype. 16-bit numbers are computed in float32. Differentiable in x.

    Raises:
        ValueError: a shape, dtype or device does not fit, or `inplace` is set and x needs a gradient.
        IndexError: an index in `mask_ids` is outside [-1, sets). GPU kernels do not check this: there
            such a token is not changed.
        BackendUnavailable: the backend that was asked for cannot run here.
    """
    if mask_ids is None:
        mask_ids = torch.zeros(x.shape[:1], dtype=torch.int64, device=x.device)
    require(
        not (inplace and x.requires_grad and torch.is_grad_enabled()),
        "x needs a gradient and cannot be overwritten: mask it out of place (inplace=False)",
    )
    if inplace:
        call_in_place("mask_neurons_", x, masks, mask_ids, float(scale), values, backend=backend)
        return x
    return call("mask_neurons", x, masks, mask_ids, float(scale), values, backend=backend)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    """Saves what the gradient depends on. The inputs are those of the torch operator."""
    _, masks, mask_ids, ctx.scale, _ = inputs
    ctx.backend = keyword_only_inputs["backend"]
    ctx.save_for_backward(masks, mask_ids)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    """Returns the gradients of the inputs. That of x is `grad`, with the selected neurons scaled."""
    masked = call("mask_neurons", grad, *ctx.saved_tensors, ctx.scale, None, backend=ctx.backend)
    return masked, None, None, None, None


TORCH_OPERATORS["mask_neurons"].register_autograd(_gradient, setup_context=_save_for_backward)
