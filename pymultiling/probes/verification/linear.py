"""The output of a linear module is its weight times its input, plus its bias."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from pymultiling.mathematics.sums import upcast
from pymultiling.models.linear import Linear, bias_of, effective_of, magnitude_of
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
    return F.linear(x.to(weight.device, weight.dtype), weight[outputs], None if bias is None else bias[outputs])


def linear_norms(linear: Linear, x: Tensor, expected: Tensor, output: Tensor, outputs: slice = EVERY) -> Norms:
    """Compares a module's output with `expected`, both computed in the same dtype.

        tolerance = 4 u (||y|| + sqrt(t) |b|) + c R,   R^2 = sum over t, i of (M[n, i] x[t, i])^2

    4 u: the product and the sum with the bias are rounded once each, on both sides. c is `sum_roundoff`: kernels add up
    in other orders. M is |W|, and of an adapter the sum of the magnitudes of its products, such as |W| + s |B| |A|. R
    takes a pass over the weight, and is computed only where the first term is exceeded.

    Args:
        linear: the module.
        x: (..., inputs), its input.
        expected: (..., outputs), `plain_output`.
        output: (..., outputs), what the module returned.
        outputs: those that are given of all outputs of the module.
    """
    output = output.to(expected.device)
    error, size = column_norms(output - expected), column_norms(expected)
    u = roundoff(expected.dtype)
    tolerance = 4 * u * size
    bias = bias_of(linear)
    if bias is not None:
        tolerance = tolerance + 4 * u * math.sqrt(x[..., 0].numel()) * upcast(bias.detach()[outputs]).abs()
    if (error > tolerance).any():
        magnitude = magnitude_of(linear).detach()[outputs]
        energy = upcast(x).flatten(0, -2).square().sum(0).to(magnitude.device)
        spread = (upcast(magnitude).square() @ energy).sqrt()
        rounding = 2 * sum_roundoff(expected.dtype, magnitude.shape[1]) + 2 * product_roundoff(expected.dtype)
        tolerance = tolerance + rounding * spread
    return Norms(error, tolerance, size)
