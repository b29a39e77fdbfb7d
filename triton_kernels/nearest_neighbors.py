"""nearest_neighbors: for each point the k nearest others, by 1 - x y / (|x| |y|) or |x - y|.

points (P, D) -> indices (P, k) int64, distances (P, k) float32. A program takes BLOCK_M points and goes through all
others, BLOCK_N at a time: scores are x y / |y|, or x y - |y|^2 / 2 around the mean of the program's own points. The
KEPT best of a point stay in registers. A better one takes the place of the worst, of equal ones of the highest index;
as columns come in order, an equal one comes too late. The products of a pair are added in the same order wherever it
stands in a tile, so equal points have equal scores. In the end distances of what was kept, from float64 sums, say
which k are nearest, and in what order. More than MOST neighbours are left to plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from pymultiling import reference
from pymultiling.triton_kernels.qk_sweep import product
from pymultiling.triton_kernels.variant import POINTERS, Variant, short_name, warp_size

BLOCK_M, BLOCK_N, BLOCK_D = 64, 128, 32
THREADS = 256
STAGES = 3
SPARE = 3  # neighbours kept beyond k, at least
MOST = 16  # neighbours


@triton.jit
def load(points, point, d, count, size, row, column):
    """(points, dimensions), zero outside."""
    at = points + point.to(tl.int64)[:, None] * row + d.to(tl.int64)[None, :] * column
    return tl.load(at, mask=(point < count)[:, None] & (d < size)[None, :], other=0.0)


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
def distance(points, own, other, count, size, row, column, COSINE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Of each point of `own` to one of `other`, from float64 sums."""
    total = tl.zeros_like(own).to(tl.float64)
    own_square, other_square = total, total
    for start in range(0, size, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = load(points, own, d, count, size, row, column).to(tl.float64)
        y = load(points, other, d, count, size, row, column).to(tl.float64)
        if COSINE:
            total += tl.sum(x * y, 1)
            own_square += tl.sum(x * x, 1)
            other_square += tl.sum(y * y, 1)
        else:
            total += tl.sum((x - y) * (x - y), 1)
    if COSINE:
        lengths = tl.sqrt(own_square * other_square)
        return 1.0 - tl.where(lengths > 0, total / tl.where(lengths > 0, lengths, 1.0), 0.0).to(tl.float32)
    return tl.sqrt(total).to(tl.float32)


@triton.jit(do_not_specialize=["count", "k"])
def kernel(
    points,
    indices,
    distances,
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

    found = tl.full((BLOCK_M, KEPT), float("inf"), tl.float32)
    for slot in range(KEPT):
        candidate = tl.sum(tl.where(slots == slot, place, 0), 1)
        exact = distance(points, own, tl.maximum(candidate, 0), count, size, row, column, COSINE, BLOCK_D)
        found = tl.where((slots == slot) & (candidate >= 0)[:, None], exact[:, None], found)
    order = tl.where(place < 0, place + 2147483647, place)  # nobody comes last
    rank = tl.zeros((BLOCK_M, KEPT), tl.int32)
    for slot in range(KEPT):
        its_found = tl.min(tl.where(slots == slot, found, float("inf")), 1)[:, None]
        its_order = tl.sum(tl.where(slots == slot, order, 0), 1)[:, None]
        rank += ((its_found < found) | ((its_found == found) & (its_order < order))).to(tl.int32)
    cells = own.to(tl.int64)[:, None] * k + rank
    mask = (own < count)[:, None] & (rank < k)
    tl.store(indices + cells, tl.maximum(place, -1).to(tl.int64), mask=mask)
    tl.store(distances + cells, tl.where(place < 0, float("nan"), found), mask=mask)


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


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    if k > MOST:
        return reference.nearest_neighbors(points, k, metric)
    count, size = points.shape
    cosine, warp, programs = metric == "cosine", warp_size(points), triton.cdiv(count, BLOCK_M)
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=torch.float32, device=points.device)
    origins = torch.empty(0 if cosine else programs, size, dtype=torch.float32, device=points.device)
    chosen = settings(points.dtype, k, cosine, warp)
    if not points.is_cuda:
        chosen["PRECISION"] = "widened"
    kernel[programs,](
        points, indices, distances, origins, count, size, k, *points.stride(),
        **chosen, num_warps=THREADS // warp, num_stages=STAGES,
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
                    {"points": pointer, "indices": "*i64", "distances": "*fp32", "origins": "*fp32"},
                    constants={"column": 1, **settings(dtype, k, metric == "cosine", lanes)},
                    divisible=("size", "row"),
                    num_warps=THREADS // lanes,
                    num_stages=STAGES,
                )
