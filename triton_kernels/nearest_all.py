"""The second kernel of nearest_neighbors: distances to all points, for the points that the first kernel left open.

A program computes the neighbours of one point, and ends at once if the point is not open. The KEPT nearest points stay
in registers. A nearer point replaces the farthest of them. If several are equally far, it replaces the one with the
highest index.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pymultiling.triton_kernels.nearest_distance import distance_of, half_square, scale_of


@triton.jit(do_not_specialize=["count", "k"])
def search_all(
    points,
    still_open,
    indices,
    distances,
    count,
    size,
    k,
    row,
    column,
    COSINE: tl.constexpr,
    KEPT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    point = tl.program_id(0)
    if tl.load(still_open + point) != 0:
        slots, columns = tl.arange(0, KEPT), tl.arange(0, BLOCK_N)
        point_block = tl.zeros((BLOCK_N,), tl.int32) + point
        scale = scale_of(points, point_block, count, size, row, column, COSINE, BLOCK_D)
        best = tl.full((KEPT,), float("inf"), tl.float64)
        index = tl.zeros((KEPT,), tl.int32) - 1 - slots  # empty slots have distinct negative numbers
        for first in range(0, count, BLOCK_N):
            candidate = first + columns
            half = half_square(points, point_block, scale, candidate, count, size, row, column, COSINE, BLOCK_D)
            half = tl.where((candidate < count) & (candidate != point) & (half < float("inf")), half, float("inf"))
            farthest = tl.max(best, 0)
            least, at = tl.min(half, 0, return_indices=True)
            while least < farthest:
                replaced_index = tl.max(tl.where(best == farthest, index, -KEPT - 1), 0)
                replaced = index == replaced_index
                best = tl.where(replaced, least, best)
                index = tl.where(replaced, first + at, index)
                half = tl.where(columns == at, float("inf"), half)
                farthest = tl.max(best, 0)
                least, at = tl.min(half, 0, return_indices=True)

        order = tl.where(index < 0, index + 2147483647, index)  # empty slots come last
        before = (best[None, :] < best[:, None]) | (
            (best[None, :] == best[:, None]) & (order[None, :] < order[:, None])
        )
        rank = tl.sum(before.to(tl.int32), 1)
        cells = point.to(tl.int64) * k + rank
        tl.store(indices + cells, tl.maximum(index, -1).to(tl.int64), mask=rank < k)
        distance = tl.where(index < 0, float("nan"), distance_of(best, COSINE))
        tl.store(distances + cells, distance, mask=rank < k)
