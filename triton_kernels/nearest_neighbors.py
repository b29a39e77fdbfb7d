"""nearest_neighbors: for each point the k nearest other points, by 1 - x y / (|x| |y|) or by |x - y|.

points (P, D) -> indices (P, k) int64, distances (P, k) float32, in two launches. A program takes BLOCK_M points x and
compares them with all points y, BLOCK_N at a time. It ranks the y by their proximity to x: x y / |y| for cosine
distances, and for euclidean distances x y - |y|^2 / 2, relative to the mean of the program's BLOCK_M points. The KEPT
candidates of highest proximity stay in registers. A nearer point replaces the worst candidate, or that with the highest
index if several are equally bad. Points come in the order of their indices, so a point never replaces a candidate of
equal proximity. The products of a pair of points are added in the same order wherever the pair is in a tile, so equal
points have equal proximity. In the end the distances of the candidates, from float64 sums, decide which k are nearest,
and in what order. Where the rounding of the proximity leaves open whether another point is nearer, the point is marked
in still_open, and the second kernel compares it with all points. k may be up to MAX_NEIGHBORS.

The arguments row and column of both kernels are the strides of points.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling.triton_kernels import interpreted
from pymultiling.triton_kernels.nearest_all import search_all
from pymultiling.triton_kernels.nearest_distance import distance_of, half_square, load_points, scale_of
from pymultiling.triton_kernels.qk_sweep import product
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_M, BLOCK_N, BLOCK_D = 64, 128, 32
THREADS = 256
STAGES = 3
ALL_BLOCK_N, ALL_THREADS = 128, 128  # BLOCK_N and THREADS of the second kernel
SPARE = 3  # minimum number of candidates beyond k
MAX_NEIGHBORS = 16  # largest k
# Several lanes of a warp may add up the same numbers and store the sum to one place. If the squares and the first of
# these additions were fused, each lane would round only the other lane's square, and the sums would differ.
FP_FUSION = False


@triton.jit
def find_origin(points, origin, point, count, size, row, column, BLOCK_D: tl.constexpr):
    """Stores the mean of the program's points in `origin`, where all of its threads read it.

    Values that are not finite count as 0.
    """
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = load_points(points, point, d, count, size, row, column).to(tl.float32)
        x = tl.where(tl.abs(x) < float("inf"), x, 0.0)
        tl.store(origin + d, tl.sum(x, 0) / tl.sum((point < count).to(tl.float32), 0), mask=d < size)
    tl.debug_barrier()


@triton.jit
def centred_square(points, origin, point, count, size, row, column, BLOCK_D: tl.constexpr):
    """Returns the squared distances of the points from `origin`, (points,) float64."""
    square = tl.zeros_like(point).to(tl.float64)
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        centre = tl.load(origin + d, mask=d < size, other=0.0)[None, :]
        x = load_points(points, point, d, count, size, row, column).to(tl.float32) - centre
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
    point = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    slots, columns = tl.arange(0, KEPT)[None, :], tl.arange(0, BLOCK_N)
    origin = origins + tl.program_id(0).to(tl.int64) * size
    if not COSINE:
        find_origin(points, origin, point, count, size, row, column, BLOCK_D)

    best = tl.full((BLOCK_M, KEPT), -float("inf"), tl.float32)
    index = tl.zeros((BLOCK_M, KEPT), tl.int32) - 1 - slots  # empty slots have distinct negative numbers
    for first in range(0, count, BLOCK_N):
        candidate = first + columns
        proximity = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        square = tl.zeros((BLOCK_N,), tl.float32)
        for start in tl.range(0, size, BLOCK_D, num_stages=STAGES):
            d = start + tl.arange(0, BLOCK_D)
            x = load_points(points, point, d, count, size, row, column)
            y = load_points(points, candidate, d, count, size, row, column)
            if not COSINE:
                centre = tl.load(origin + d, mask=d < size, other=0.0)[None, :]
                x, y = x.to(tl.float32) - centre, y.to(tl.float32) - centre
            proximity += product(x, tl.trans(y), PRECISION)
            square += tl.sum(y.to(tl.float32) * y.to(tl.float32), 1)
        if COSINE:
            proximity *= tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)[None, :]
        else:
            proximity -= square[None, :] / 2
        is_candidate = (
            (tl.abs(proximity) < float("inf")) & (candidate < count)[None, :] & (candidate[None, :] != point[:, None])
        )
        proximity = tl.where(is_candidate & (point < count)[:, None], proximity, -float("inf"))

        worst_kept = tl.min(best, 1)
        top, at = tl.max(proximity, 1, return_indices=True)
        while tl.max((top > worst_kept).to(tl.int32), 0) > 0:
            worst = best == worst_kept[:, None]
            replaced_index = tl.max(tl.where(worst, index, -KEPT - 1), 1)
            replaced = worst & (index == replaced_index[:, None]) & (top > worst_kept)[:, None]
            best = tl.where(replaced, top[:, None], best)
            index = tl.where(replaced, (first + at)[:, None], index)
            proximity = tl.where(columns[None, :] == at[:, None], -float("inf"), proximity)
            worst_kept = tl.min(best, 1)
            top, at = tl.max(proximity, 1, return_indices=True)

    point_scale = scale_of(points, point, count, size, row, column, COSINE, BLOCK_D)
    half_squares = tl.full((BLOCK_M, KEPT), float("inf"), tl.float64)
    for slot in range(KEPT):
        candidate = tl.sum(tl.where(slots == slot, index, 0), 1)
        at = tl.maximum(candidate, 0)
        half = half_square(points, point, point_scale, at, count, size, row, column, COSINE, BLOCK_D)
        half_squares = tl.where((slots == slot) & (candidate >= 0)[:, None], half[:, None], half_squares)
    order = tl.where(index < 0, index + 2147483647, index)  # empty slots come last
    rank = tl.zeros((BLOCK_M, KEPT), tl.int32)
    for slot in range(KEPT):
        slot_half_square = tl.min(tl.where(slots == slot, half_squares, float("inf")), 1)[:, None]
        slot_order = tl.sum(tl.where(slots == slot, order, 0), 1)[:, None]
        rank += ((slot_half_square < half_squares) | ((slot_half_square == half_squares) & (slot_order < order))).to(
            tl.int32
        )
    cells = point.to(tl.int64)[:, None] * k + rank
    mask = (point < count)[:, None] & (rank < k)
    tl.store(indices + cells, tl.maximum(index, -1).to(tl.int64), mask=mask)
    tl.store(distances + cells, tl.where(index < 0, float("nan"), distance_of(half_squares, COSINE)), mask=mask)

    # No other point's proximity exceeds the lowest one that was kept. A proximity is |x|^2 / 2 minus the half square,
    # up to rounding, which for a sum of products grows with the square root of their number.
    worst_kept = tl.min(best, 1).to(tl.float64)
    if COSINE:
        square = tl.where(point_scale == 0, 0.0, 1.0).to(tl.float64)
        worst_kept = worst_kept * point_scale - square / 2  # 1 - x y for points of length 1
    else:
        square = centred_square(points, origin, point, count, size, row, column, BLOCK_D)
    farthest = tl.max(tl.where(rank == k - 1, half_squares, 0.0), 1)
    reach = tl.sqrt(square) + tl.sqrt(2 * farthest)
    terms = 2 * tl.sqrt(tl.zeros((BLOCK_M,), tl.float32) + size) + 16
    rounding = (tl.sqrt(square) * reach * terms + 4 * reach * reach) * 5.9604644775390625e-08  # 2^-24
    is_settled = (farthest < square / 2 - worst_kept - rounding) | (tl.min(index, 1) < 0)
    if COSINE:
        is_settled = is_settled | (point_scale == 0)  # all points are equally near to zero
    tl.store(still_open + point, (~is_settled).to(tl.int8), mask=point < count)


def settings(dtype: torch.dtype, k: int, cosine: bool, warp: int) -> dict[str, object]:
    """Returns the constants of the first kernel. warp: threads of a warp.

    Products of 16-bit numbers are exact in float32. With the mean subtracted, the numbers are float32.
    """
    is_float32 = dtype == torch.float32 or not cosine
    return {
        "COSINE": cosine,
        "KEPT": triton.next_power_of_2(k + SPARE),
        "PRECISION": "tf32x3" if is_float32 and warp == 32 else "ieee",
        "BLOCK_M": BLOCK_M,
        "BLOCK_N": BLOCK_N,
        "BLOCK_D": BLOCK_D,
        "STAGES": STAGES,
    }


def settings_for_all(k: int, cosine: bool) -> dict[str, object]:
    """Returns the constants of the second kernel."""
    return {"COSINE": cosine, "KEPT": triton.next_power_of_2(k), "BLOCK_N": ALL_BLOCK_N, "BLOCK_D": BLOCK_D}


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Launches both kernels. Arguments and results are those of `pymultiling.ops.reference.nearest_neighbors`."""
    count, size = points.shape
    cosine, warp, programs = metric == "cosine", warp_size(points), triton.cdiv(count, BLOCK_M)
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=torch.float32, device=points.device)
    still_open = torch.empty(count, dtype=torch.int8, device=points.device)
    origins = torch.empty(0 if cosine else programs, size, dtype=torch.float32, device=points.device)
    constants = settings(points.dtype, k, cosine, warp)
    if interpreted():
        constants["PRECISION"] = "widened"  # see qk_sweep.product
    kernel[programs,](
        points, indices, distances, still_open, origins, count, size, k, *points.stride(),
        **constants, num_warps=THREADS // warp, num_stages=STAGES, enable_fp_fusion=FP_FUSION,
    )  # fmt: skip
    search_all[count,](
        points, still_open, indices, distances, count, size, k, *points.stride(),
        **settings_for_all(k, cosine), num_warps=ALL_THREADS // warp, enable_fp_fusion=FP_FUSION,
    )  # fmt: skip
    return indices, distances


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants of both kernels for each dtype and metric, for bfloat16 also with MAX_NEIGHBORS neighbours.

    warp: threads of a warp.
    """
    for dtype, pointer in POINTERS.items():
        for k in (5, MAX_NEIGHBORS) if dtype == torch.bfloat16 else (5,):
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
                    constants={"column": 1, **settings(dtype, k, metric == "cosine", warp)},
                    divisible=("size", "row"),
                    num_warps=THREADS // warp,
                    num_stages=STAGES,
                    fp_fusion=FP_FUSION,
                )
                yield Variant.of(
                    "nearest_neighbors",
                    f"{short_name(dtype)}, {metric}, {k} neighbours, rows left open",
                    search_all,
                    {"points": pointer, "still_open": "*i8", "indices": "*i64", "distances": "*fp32"},
                    constants={"column": 1, **settings_for_all(k, metric == "cosine")},
                    divisible=("size", "row"),
                    num_warps=ALL_THREADS // warp,
                    num_stages=1,
                    fp_fusion=FP_FUSION,
                )
