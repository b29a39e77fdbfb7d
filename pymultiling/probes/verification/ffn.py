"""FFNs: the input of the down projection is act(gate) up, also by gated_ffn; experts do what `run_experts` does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pymultiling.mathematics.sums import upcast
from pymultiling.ops import gated_ffn
from pymultiling.probes.fused_ffn import ACTIVATIONS
from pymultiling.probes.verification.linear import Norms
from pymultiling.probes.verification.rounding import ACCUMULATION, column_norms, internal_roundoff, roundoff

# GELU's approximation by tanh, written in plain operations as GPT-2 has it, rounds about ten times. |act(x)| <= |x|,
# and 1 + tanh loses digits where x is negative, so that roundings are relative to x rather than to act(x). Activations
# that square x round relative to act(x) where it is larger.
ROUNDINGS = 12


def product_norms(
    activation: str | None, function: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor | None, hidden: Tensor
) -> tuple[Norms, Norms | None]:
    """Compares the input of the down projection, (..., N), with act(gate) up.

    Args:
        activation: transformers' name of the activation; None: the operator `gated_ffn` does not compute the product.
        function: what `activation_function` gives.
        gate: (..., N), the output of the projection that the activation is applied to.
        up: (..., N), the output of the projection that it is multiplied by; None for a plain FFN.
        hidden: (..., N), the input of the down projection.

    Returns:
        The comparison with the formula; and that with the operator `gated_ffn`, which rounds as often in float32 and
        once to the dtype, or None where the operator lacks the activation.
    """
    wide, factor = upcast(gate), 1.0 if up is None else upcast(up)
    expected = function(wide) * factor
    given, size, u = upcast(hidden), column_norms(expected), internal_roundoff(hidden.dtype)
    magnitude = torch.maximum(column_norms(wide * factor), size)
    norms = Norms(column_norms(given - expected), ROUNDINGS * u * magnitude, size)
    if activation is None or activation not in ACTIVATIONS:
        return norms, None
    flat_up = None if up is None else up.flatten(0, -2)
    fused = gated_ffn(gate.flatten(0, -2), flat_up, activation=ACTIVATIONS[activation]).hidden
    tolerance = (ROUNDINGS * (u + ACCUMULATION) + u) * magnitude
    return norms, Norms(column_norms(given.flatten(0, -2) - upcast(fused)), tolerance, size)


def expert_norms(expected: Tensor, output: Tensor, sum_length: int) -> Norms:
    """Compares the output of experts with that of `run_experts`, both (tokens, D) in the same dtype.

    Gate, up, act, product, down, the router's weight and the sum over experts are rounded once each, on both sides.
    Roundings before the down projection pass through its sums, which mix them, so that the whole output is compared.
    """
    error, size = column_norms((output - expected).flatten()[:, None]), column_norms(expected.flatten()[:, None])
    dtype = output.dtype
    return Norms(error, (14 * roundoff(dtype) + 2 * sum_length * min(ACCUMULATION, roundoff(dtype))) * size, size)


def shared_norms(routed: Tensor, shared: Tensor, gate: Tensor | None, output: Tensor, scale: float = 1.0) -> Norms:
    """Compares the output of an FFN with what its experts and its shared expert give, sigmoid(gate) shared + c routed.

    The sigmoid, the products and the sum are rounded once each, in Hy3 to float32 also in a float64 model.

    Args:
        routed: (tokens, D), the output of the experts.
        shared: (tokens, D), the output of the shared expert.
        gate: (tokens, 1), the output of its gate, or None.
        output: (..., D), the output of the FFN.
        scale: c.
    """
    u, added = internal_roundoff(output.dtype), upcast(shared).flatten(0, -2)
    if gate is not None:
        added = upcast(gate).flatten(0, -2).sigmoid() * added
    scaled = upcast(routed).flatten(0, -2) * scale
    total = scaled + added
    size = column_norms(total)
    error = column_norms(upcast(output.to(total.device)).flatten(0, -2) - total)
    product = 0.0 if scale == 1 else column_norms(scaled)
    return Norms(error, u * (2 * size + 4 * column_norms(added) + product), size)


def same_norms(expected: Tensor, output: Tensor, added: Tensor | None = None) -> Norms:
    """Compares what two modules return, (..., N) each.

    added: what the second adds to it, with one rounding of the sum; None: nothing.
    """
    output = output.to(expected.device).view(expected.shape)
    size = column_norms(expected)
    if added is None:
        return Norms(column_norms(upcast(output) - upcast(expected)), torch.zeros_like(size), size)
    total = upcast(expected) + upcast(added.to(expected.device)).view(expected.shape)
    return Norms(column_norms(upcast(output) - total), 2 * roundoff(output.dtype) * column_norms(total), size)
