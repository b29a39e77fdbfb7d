"""nearest_neighbors: for each point the k nearest others, by 1 - x y / (|x| |y|) or |x - y|.

points (P, D) -> indices (P, k) int64, distances (P, k) float32, in two launches. A program takes BLOCK_M points and goes
through all others, BLOCK_N at a time: scores are x y / |y|, or x y - |y|^2 / 2 around the mean of the program's own
points. The KEPT best of a point stay in registers. A better one takes the place of the worst, of equal ones of the
highest index; as columns come in order, an equal one comes too late. The products of a pair are added in the same order
wherever it stands in a tile, so equal points have equal scores. In the end distances of what was kept, from float64
sums, say which k are nearest, and in what order. Where the scores' rounding leaves it open whether another point is
nearer, the row is marked, and the second kernel looks at all points. It keeps up to MOST neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels.nearest_all import search_all
from pymultiling.triton_kernels.nearest_distance import distance_of, half_square, load, scale_of
from pymultiling.triton_kernels.qk_sweep import product
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_M, BLOCK_N, BLOCK_D = 64, 128, 32
THREADS = 256
STAGES = 3
OF_ALL_N, THREADS_OF_ALL = 128, 128  # of the second kernel
SPARE = 3  # neighbours kept beyond k, at least
MOST = 16  # neighbours


@triton.jit
def find_origin(points, origin, own, count, size, row, column, BLOCK_D: tl.constexpr):
    """The mean of the program's finite values, for all of its threads to read."""
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = load(points, own, d, count, size, row, column).to(tl.float32)
        x = tl.where(tl.abs(x) < float("inf"), x, 0.0)
        tl.store(origin + d, tl.sum(x, 0) / tl.sum((own < count).to(tl.float32), 0), mask=d < size)
    tl.debug_barrier()


@triton.jit
def centred_square(points, origin, own, count, size, row, column, BLOCK_D: tl.constexpr):
    """(points,) float64: their squares around the origin."""
    square = tl.zeros_like(own).to(tl.float64)
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        centre = tl.load(origin + d, mask=d < size, other=0.0)[None, :]
        x = load(points, own, d, count, size, row, column).to(tl.float32) - centre
        square += tl.sum(x.to(tl.float64) * x.to(tl.float64), 1)
    return square


@triton.jit(do_not_specialize=["count", "k"])
def kernel(
    points,
    indices,
    distances,
    still_open,
    origins,
    count,
    size,
    k,
    row,
    column,
    COSINE: tl.constexpr,
    KEPT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    own = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    slots, columns = tl.arange(0, KEPT)[None, :], tl.arange(0, BLOCK_N)
    origin = origins + tl.program_id(0).to(tl.int64) * size
    if not COSINE:
        find_origin(points, origin, own, count, size, row, column, BLOCK_D)

    best = tl.full((BLOCK_M, KEPT), -float("inf"), tl.float32)
    place = tl.zeros((BLOCK_M, KEPT), tl.int32) - 1 - slots  # those of nobody are negative, and differ
    for first in range(0, count, BLOCK_N):
        other = first + columns
        score = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        square = tl.zeros((BLOCK_N,), tl.float32)
        for start in tl.range(0, size, BLOCK_D, num_stages=STAGES):
            d = start + tl.arange(0, BLOCK_D)
            x = load(points, own, d, count, size, row, column)
            y = load(points, other, d, count, size, row, column)
            if not COSINE:
                centre = tl.load(origin + d, mask=d < size, other=0.0)[None, :]
                x, y = x.to(tl.float32) - centre, y.to(tl.float32) - centre
            score += product(x, tl.trans(y), PRECISION)
            square += tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
        if COSINE:
            score *= tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)[None, :]
        else:
            score -= square[None, :] / 2
        taken = (tl.abs(score) < float("inf")) & (other < count)[None, :] & (other[None, :] != own[:, None])
        score = tl.where(taken & (own < count)[:, None], score, -float("inf"))

        least = tl.min(best, 1)
        top, at = tl.max(score, 1, return_indices=True)
        while tl.max((top > least).to(tl.int32), 0) > 0:
            worst = best == least[:, None]
            last = tl.max(tl.where(worst, place, -KEPT - 1), 1)
            replaced = worst & (place == last[:, None]) & (top > least)[:, None]
            best = tl.where(replaced, top[:, None], best)
            place = tl.where(replaced, (first + at)[:, None], place)
            score = tl.where(columns[None, :] == at[:, None], -float("inf"), score)
            least = tl.min(best, 1)
            top, at = tl.max(score, 1, return_indices=True)

    own_scale = scale_of(points, own, count, size, row, column, COSINE, BLOCK_D)
    found = tl.full((BLOCK_M, KEPT), float("inf"), tl.float64)
    for slot in range(KEPT):
        candidate = tl.sum(tl.where(slots == slot, place, 0), 1)
        at = tl.maximum(candidate, 0)
        half = half_square(points, own, own_scale, at, count, size, row, column, COSINE, BLOCK_D)
        found = tl.where((slots == slot) & (candidate >= 0)[:, None], half[:, None], found)
    order = tl.where(place < 0, place + 2147483647, place)  # nobody comes last
    rank = tl.zeros((BLOCK_M, KEPT), tl.int32)
    for slot in range(KEPT):
        its_found = tl.min(tl.where(slots == slot, found, float("inf")), 1)[:, None]
        its_order = tl.sum(tl.where(slots == slot, order, 0), 1)[:, None]
        rank += ((its_found < found) | ((its_found == found) & (its_order < order))).to(tl.int32)
    cells = own.to(tl.int64)[:, None] * k + rank
    mask = (own < count)[:, None] & (rank < k)
    tl.store(indices + cells, tl.maximum(place, -1).to(tl.int64), mask=mask)
    tl.store(distances + cells, tl.where(place < 0, float("nan"), distance_of(found, COSINE)), mask=mask)

    # No other point's score exceeds the least that was kept. Scores are |x|^2 / 2 less the half square, up to rounding,
    # which for a sum of products grows as the root of their number.
    least = tl.min(best, 1).to(tl.float64)
    if COSINE:
        square = tl.where(own_scale == 0, 0.0, 1.0).to(tl.float64)
        least = least * own_scale - square / 2  # 1 - x y for lengths of 1
    else:
        square = centred_square(points, origin, own, count, size, row, column, BLOCK_D)
    farthest = tl.max(tl.where(rank == k - 1, found, 0.0), 1)
    reach = tl.sqrt(square) + tl.sqrt(2 * farthest)
    terms = 2 * tl.sqrt(tl.zeros((BLOCK_M,), tl.float32) + size) + 16
    rounding = (tl.sqrt(square) * reach * terms + 4 * reach * reach) * 5.9604644775390625e-08  # 2^-24
    settled = (farthest < square / 2 - least - rounding) | (tl.min(place, 1) < 0)
    if COSINE:
        settled = settled | (own_scale == 0)  # to which all are as near
    tl.store(still_open + own, (~settled).to(tl.int8), mask=own < count)


def settings(dtype: torch.dtype, k: int, cosine: bool, warp: int) -> dict[str, object]:
    """Products of 16-bit numbers are exact in float32; around a mean they are numbers of float32."""
    whole = dtype == torch.float32 or not cosine
    return {
        "COSINE": cosine,
        "KEPT": triton.next_power_of_2(k + SPARE),
        "PRECISION": "tf32x3" if whole and warp == 32 else "ieee",
        "BLOCK_M": BLOCK_M,
        "BLOCK_N": BLOCK_N,
        "BLOCK_D": BLOCK_D,
        "STAGES": STAGES,
    }


def settings_of_all(k: int, cosine: bool) -> dict[str, object]:
    return {"COSINE": cosine, "KEPT": triton.next_power_of_2(k), "BLOCK_N": OF_ALL_N, "BLOCK_D": BLOCK_D}


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    count, size = points.shape
    cosine, warp, programs = metric == "cosine", warp_size(points), triton.cdiv(count, BLOCK_M)
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=torch.float32, device=points.device)
    still_open = torch.empty(count, dtype=torch.int8, device=points.device)
    origins = torch.empty(0 if cosine else programs, size, dtype=torch.float32, device=points.device)
    chosen = settings(points.dtype, k, cosine, warp)
    if not points.is_cuda:
        chosen["PRECISION"] = "widened"
    kernel[programs,](
        points, indices, distances, still_open, origins, count, size, k, *points.stride(),
        **chosen, num_warps=THREADS // warp, num_stages=STAGES,
    )  # fmt: skip
    search_all[count,](
        points, still_open, indices, distances, count, size, k, *points.stride(),
        **settings_of_all(k, cosine), num_warps=THREADS_OF_ALL // warp,
    )  # fmt: skip
    return indices, distances


def variants(lanes: int = 32) -> Iterator[Variant]:
    for dtype, pointer in POINTERS.items():
        for k in (5, MOST) if dtype == torch.bfloat16 else (5,):
            for metric in ("cosine", "euclidean"):
                yield Variant.of(
                    "nearest_neighbors",
                    f"{short_name(dtype)}, {metric}, {k} neighbours",
                    kernel,
                    {
                        "points": pointer,
                        "indices": "*i64",
                        "distances": "*fp32",
                        "still_open": "*i8",
                        "origins": "*fp32",
                    },
                    constants={"column": 1, **settings(dtype, k, metric == "cosine", lanes)},
                    divisible=("size", "row"),
                    num_warps=THREADS // lanes,
                    num_stages=STAGES,
                )
                yield Variant.of(
                    "nearest_neighbors",
                    f"{short_name(dtype)}, {metric}, {k} neighbours, rows left open",
                    search_all,
                    {"points": pointer, "still_open": "*i8", "indices": "*i64", "distances": "*fp32"},
                    constants={"column": 1, **settings_of_all(k, metric == "cosine")},
                    divisible=("size", "row"),
                    num_warps=THREADS_OF_ALL // lanes,
                    num_stages=1,
                )
