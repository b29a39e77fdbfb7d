"""The output of a linear module is its weight times its input, plus its bias."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pymultiling.mathematics.sums import upcast
from pymultiling.models.bitsandbytes_weights import input_rounding
from pymultiling.models.linear import Linear, bias_of, effective_of, inner_linear, magnitude_of, rounding_dtype_of
from pymultiling.probes.verification.rounding import column_norms, product_roundoff, roundoff, sum_roundoff


class Norms(NamedTuple):
    """Norms over the tokens, for each output of a module: (outputs,) each."""

    error: Tensor
    tolerance: Tensor
    size: Tensor


EVERY = slice(None)


def plain_output(linear: Linear, x: Tensor, outputs: slice = EVERY) -> Tensor:
    """Returns some outputs of x W^T + b, computed in the module's dtype from its weight and bias."""
    weight, bias, _ = effective_of(linear)
    # The bias of a module in 8 bits has another dtype than its weight.
    bias = None if bias is None else bias[outputs].to(weight.dtype)
    return F.linear(x.to(weight.device, weight.dtype), weight[outputs], bias)


def linear_norms(linear: Linear, x: Tensor, expected: Tensor, output: Tensor, outputs: slice = EVERY) -> Norms:
    """Compares a module's output with `expected`, computed in the same dtype, or in one with more digits if quantised.

        tolerance = 4 u (||y|| + sqrt(t) |b|) + c R + r,   R^2 = sum over t, i of (M[n, i] x[t, i])^2

    4 u: the product and the sum with the bias are rounded once each, on both sides. c is `sum_roundoff`: kernels add up
    in other orders. M is |W|, and of an adapter the sum of the magnitudes of its products, such as |W| + s |B| |A|. r
    is `input_rounding` times the norm of M[n], where inputs are rounded to 8 bits, else 0. R and r take a pass over the
    weight, and are computed only where the first term is exceeded.

    Args:
        linear: the module.
        x: (..., inputs), its input.
        expected: (..., outputs), `plain_output`.
        output: (..., outputs), what the module returned.
        outputs: those that are given of all outputs of the module.
    """
    output = output.to(expected.device)
    error, size = column_norms(output - expected), column_norms(expected)
    dtype = max(expected.dtype, rounding_dtype_of(linear), key=roundoff)
    u = roundoff(dtype)
    tolerance = 4 * u * size
    bias = bias_of(linear)
    if bias is not None:
        tolerance = tolerance + 4 * u * math.sqrt(x[..., 0].numel()) * upcast(bias.detach()[outputs]).abs()
    if (error > tolerance).any():
        magnitude = magnitude_of(linear).detach()[outputs]
        energy = upcast(x).flatten(0, -2).square().sum(0).to(magnitude.device)
        squares = upcast(magnitude).square()
        rounding = 2 * sum_roundoff(dtype, magnitude.shape[1]) + 2 * product_roundoff(dtype)
        tolerance = tolerance + rounding * (squares @ energy).sqrt()
        input_error = input_rounding(inner_linear(linear), x)
        if input_error is not None:
            tolerance = tolerance + input_error * squares.sum(1).sqrt()
    return Norms(error, tolerance, size)
