"""The second kernel of nearest_neighbors: distances to all points, for rows that the first has left open.

A program looks at one row, and ends at once where nothing is open. The KEPT nearest stay in registers; a nearer one
takes the place of the farthest, of equal ones of the highest index.
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
    own = tl.program_id(0)
    if tl.load(still_open + own) != 0:
        slots, columns = tl.arange(0, KEPT), tl.arange(0, BLOCK_N)
        mine = tl.zeros((BLOCK_N,), tl.int32) + own
        scale = scale_of(points, mine, count, size, row, column, COSINE, BLOCK_D)
        near = tl.full((KEPT,), float("inf"), tl.float64)
        place = tl.zeros((KEPT,), tl.int32) - 1 - slots  # those of nobody are negative, and differ
        for first in range(0, count, BLOCK_N):
            other = first + columns
            found = half_square(points, mine, scale, other, count, size, row, column, COSINE, BLOCK_D)
            found = tl.where((other < count) & (other != own) & (found < float("inf")), found, float("inf"))
            farthest = tl.max(near, 0)
            least, at = tl.min(found, 0, return_indices=True)
            while least < farthest:
                last = tl.max(tl.where(near == farthest, place, -KEPT - 1), 0)
                replaced = place == last
                near = tl.where(replaced, least, near)
                place = tl.where(replaced, first + at, place)
                found = tl.where(columns == at, float("inf"), found)
                farthest = tl.max(near, 0)
                least, at = tl.min(found, 0, return_indices=True)

        order = tl.where(place < 0, place + 2147483647, place)  # nobody comes last
        before = (near[None, :] < near[:, None]) | (
            (near[None, :] == near[:, None]) & (order[None, :] < order[:, None])
        )
        rank = tl.sum(before.to(tl.int32), 1)
        cells = own.to(tl.int64) * k + rank
        tl.store(indices + cells, tl.maximum(place, -1).to(tl.int64), mask=rank < k)
        distance = tl.where(place < 0, float("nan"), distance_of(near, COSINE))
        tl.store(distances + cells, distance, mask=rank < k)
