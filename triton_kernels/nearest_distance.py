"""Distances as nearest_neighbors compares them: half of the squared distance, in float64.

For cosine distances the points are scaled to length 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_points(points, point, d, count, size, row, column):
    """Loads dimensions d of points `point`, (points, dimensions); 0 where a point or a dimension does not exist."""
    at = points + point.to(tl.int64)[:, None] * row + d.to(tl.int64)[None, :] * column
    return tl.load(at, mask=(point < count)[:, None] & (d < size)[None, :], other=0.0)


@triton.jit
def scale_of(points, point, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Returns the factor that scales each point x for the metric, (points,) float64.

    It is 1 / |x| for cosine distances (0 where x is 0), and 1 for euclidean distances.
    """
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
    """Returns half the squared distance of each scaled point to a second point, (points,) float64.

    The last 12 bits are rounded off, so that rounding does not separate equal distances.

    Args:
        points: pointer to all points.
        point: (points,), indices of the points.
        point_scale: (points,), their factors, from `scale_of`.
        second: (points,), index of the second point of each point.
        count: number of all points.
        size: dimensions of a point.
        row: stride between points.
        column: stride between dimensions.
        COSINE: whether the metric is the cosine distance.
        BLOCK_D: dimensions that are loaded at once.
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
    # The sum overflows if all bits of a NaN are set.
    return tl.where(total < float("inf"), bits.to(tl.float64, bitcast=True), total)


@triton.jit
def distance_of(half, COSINE: tl.constexpr):
    """Converts half squared distances to the distances that are returned."""
    if not COSINE:
        half = tl.sqrt(2 * half)
    return half.to(tl.float32)
