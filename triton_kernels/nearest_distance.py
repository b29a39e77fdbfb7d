"""Distances as nearest_neighbors compares them: half squares in float64, for cosines between points of length 1."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_points(points, point, d, count, size, row, column):
    """Loads (points, dimensions), zero outside."""
    at = points + point.to(tl.int64)[:, None] * row + d.to(tl.int64)[None, :] * column
    return tl.load(at, mask=(point < count)[:, None] & (d < size)[None, :], other=0.0)


@triton.jit
def scale_of(points, point, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Returns (points,) float64: 1 / |x|, 0 where x is 0; 1 for euclidean distances."""
    scale = tl.zeros_like(point).to(tl.float64) + 1
    if COSINE:
        square = scale - 1
        for start in range(0, size, BLOCK_D):
            x = load_points(points, point, start + tl.arange(0, BLOCK_D), count, size, row, column).to(tl.float64)
            square += tl.sum(x * x, 1)
        scale = tl.where(square == 0, 0.0, 1 / tl.sqrt(tl.where(square == 0, 1.0, square)))
    return scale


@triton.jit
def half_square(
    points, point, point_scale, second, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Returns half the squared distance of each point to its second point.

    The last 12 bits are rounded off, so that rounding does not separate equal distances.
    """
    second_scale = scale_of(points, second, count, size, row, column, COSINE, BLOCK_D)
    total = tl.zeros_like(point).to(tl.float64)
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = load_points(points, point, d, count, size, row, column).to(tl.float64) * point_scale[:, None]
        y = load_points(points, second, d, count, size, row, column).to(tl.float64) * second_scale[:, None]
        total += tl.sum((x - y) * (x - y), 1)
    total /= 2
    if COSINE:
        total = tl.where(total < 1e-28, 0.0, total)  # rounding leaves up to this between equal directions
        total = tl.where((point_scale == 0) | (second_scale == 0), 1.0, total)
    bits = (total.to(tl.int64, bitcast=True) + 2048) & -4096
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def distance_of(half, COSINE: tl.constexpr):
    """Converts half squared distances to the distances that are returned."""
    if not COSINE:
        half = tl.sqrt(2 * half)
    return half.to(tl.float32)
