"""Distances as nearest_neighbors compares them: half squares in float64, for cosines of points at length 1."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(points, point, d, count, size, row, column):
    """(points, dimensions), zero outside."""
    at = points + point.to(tl.int64)[:, None] * row + d.to(tl.int64)[None, :] * column
    return tl.load(at, mask=(point < count)[:, None] & (d < size)[None, :], other=0.0)


@triton.jit
def scale_of(points, point, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr):
    """(points,) float64: 1 / |x|, 0 where x is 0; 1 for euclidean distances."""
    scale = tl.zeros_like(point).to(tl.float64) + 1
    if COSINE:
        square = scale - 1
        for start in range(0, size, BLOCK_D):
            x = load(points, point, start + tl.arange(0, BLOCK_D), count, size, row, column).to(tl.float64)
            square += tl.sum(x * x, 1)
        scale = tl.where(square == 0, 0.0, 1 / tl.sqrt(tl.where(square == 0, 1.0, square)))
    return scale


@triton.jit
def half_square(
    points, own, own_scale, other, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Of each point of `own` to one of `other`, without the last 12 bits, so that rounding parts nothing equal."""
    other_scale = scale_of(points, other, count, size, row, column, COSINE, BLOCK_D)
    total = tl.zeros_like(own).to(tl.float64)
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = load(points, own, d, count, size, row, column).to(tl.float64) * own_scale[:, None]
        y = load(points, other, d, count, size, row, column).to(tl.float64) * other_scale[:, None]
        total += tl.sum((x - y) * (x - y), 1)
    total /= 2
    if COSINE:
        total = tl.where(total < 1e-28, 0.0, total)  # what rounding leaves of equal directions
        total = tl.where((own_scale == 0) | (other_scale == 0), 1.0, total)
    bits = (total.to(tl.int64, bitcast=True) + 2048) & -4096
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def distance_of(half, COSINE: tl.constexpr):
    if not COSINE:
        half = tl.sqrt(2 * half)
    return half.to(tl.float32)
