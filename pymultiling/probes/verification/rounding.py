r"""How far rounding can take a model's numbers from those of another implementation of the same formula.

u is the unit roundoff, half the distance of 1 to the next number: 2^-24 in float32, 2^-11 in float16, 2^-8 in bfloat16.
Sums are added up in float32 in the 16-bit dtypes too, so that a sum of n products of rounded factors has an error of at
most n 2^-24 times the sum of their magnitudes, before it is rounded to the dtype. Of a model's own numbers each rounded
value counts once, of ours too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.sums import upcast

ACCUMULATION = 2.0**-24  # the unit roundoff of float32, in which sums are added up
# The unit roundoff of the factors of float32 products, by torch.get_float32_matmul_precision(): "high" is TF32, and
# "medium" bfloat16.
PRODUCTS = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


def roundoff(dtype: torch.dtype) -> float:
    """Returns the unit roundoff of a dtype's elements."""
    return torch.finfo(dtype).eps / 2


def internal_roundoff(dtype: torch.dtype) -> float:
    """Returns the unit roundoff of norms, rotations and softmax, which models compute in float32 also in float64."""
    return max(roundoff(dtype), ACCUMULATION)


def product_roundoff(dtype: torch.dtype) -> float:
    """Returns the unit roundoff of products of matrices, which float32 may compute in fewer bits."""
    if dtype != torch.float32:
        return roundoff(dtype)
    return PRODUCTS[torch.get_float32_matmul_precision()]


def sum_roundoff(dtype: torch.dtype, length: int) -> float:
    """Returns the largest error of a sum of `length` products, relative to the root of the sum of their squares.

    Relative to the sum of the magnitudes it is n 2^-24. This sum is at most sqrt(n) times the root of the sum of
    squares, and rounding errors of n additions, which have random signs, add up to about sqrt(n) of them: sqrt(n)
    sqrt(n) is n again. float64 sums are added up in float64.
    """
    return length * min(ACCUMULATION, roundoff(dtype)) + product_roundoff(dtype)


def column_norms(x: Tensor) -> Tensor:
    """Returns the norm of every column over all tokens: (..., N) -> (N,), in float32 or float64."""
    # torch.linalg.vector_norm takes 15 times as long over the first dimension on a CPU.
    return upcast(x).flatten(0, -2).square().sum(0).sqrt()


def is_same(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are equal bit for bit. Integers are compared in a fraction of the time of numbers."""
    if (x.device, x.dtype, x.shape) != (y.device, y.dtype, y.shape):
        return False
    if all(each.is_contiguous() and not each.storage_offset() for each in (x, y)) and x.nbytes % 8 == 0:
        x, y = x.view(-1).view(torch.int64), y.view(-1).view(torch.int64)
    return torch.equal(x, y)
