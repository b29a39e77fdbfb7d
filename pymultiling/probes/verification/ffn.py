"""FFNs: the input of the down projection is act(gate) up, and experts compute what `run_experts` does."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from pymultiling.mathematics.sums import upcast
from pymultiling.probes.verification.linear import Norms
from pymultiling.probes.verification.rounding import ACCUMULATION, column_norms, internal_roundoff, roundoff

# GELU's approximation by tanh, written in plain operations as GPT-2 has it, rounds about ten times. |act(x)| <= |x|,
# and 1 + tanh loses digits where x is negative, so that roundings are relative to x rather than to act(x).
ROUNDINGS = 12


def product_norms(activation: str, gate: Tensor, up: Tensor | None, hidden: Tensor) -> Norms:
    """Compares the input of the down projection, (..., N), with act(gate) up; `up` is None for a plain FFN."""
    wide, factor = upcast(gate), 1.0 if up is None else upcast(up)
    expected = ACT2FN[activation](wide) * factor
    error = column_norms(upcast(hidden) - expected)
    return Norms(
        error, ROUNDINGS * internal_roundoff(hidden.dtype) * column_norms(wide * factor), column_norms(expected)
    )


def expert_norms(expected: Tensor, output: Tensor, sum_length: int) -> Norms:
    """Compares the output of experts with that of `run_experts`, both (tokens, D) in the same dtype.

    Gate, up, act, product, down, the router's weight and the sum over experts are rounded once each, on both sides.
    Roundings before the down projection pass through its sums, which mix them, so that the whole output is compared.
    """
    error, size = column_norms((output - expected).flatten()[:, None]), column_norms(expected.flatten()[:, None])
    dtype = output.dtype
    return Norms(error, (14 * roundoff(dtype) + 2 * sum_length * min(ACCUMULATION, roundoff(dtype))) * size, size)


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
