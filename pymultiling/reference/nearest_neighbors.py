"""nearest_neighbors: for each point the k nearest others, by 1 - x y / (|x| |y|) or |x - y|.

In two steps, as in all backends. First k + SPARE candidates, by scores in float32 (or float64) from products of
matrices: x y / (|x| |y|), or x y - |y|^2 / 2 around the points' mean. A product of matrices need not give two equal
columns the same bits, so it is made of the distinct points, and equal points share a column. Then distances of the
candidates, in float64.
"""

import torch
from torch import Tensor

SPARE = 3  # candidates beyond k: a neighbour is missed only if more are nearer by scores, and by rounding alone
SCORES = 2**24  # at a time
DIFFERENCES = 2**22  # between points and their candidates, at a time


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    points = points if points.dtype == torch.float64 else points.float()
    count, size = points.shape
    kept = min(k + SPARE, count - 1)
    scaled = _unit(points) if metric == "cosine" else _centred(points)
    distinct, column = torch.unique(scaled, dim=0, return_inverse=True)
    half = 0 if metric == "cosine" else distinct.square().sum(1) / 2
    rows = max(1, min(SCORES // count, DIFFERENCES // (kept * size)))
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=points.dtype, device=points.device)
    for first in range(0, count, rows):
        own = torch.arange(first, min(first + rows, count), device=points.device)
        scores = (scaled[own] @ distinct.T - half)[:, column]
        scores[own - first, own] = -torch.inf
        candidates = _best(scores, kept)
        found, order = _distances(points, own, candidates, metric).sort(dim=1, stable=True)
        indices[own], distances[own] = candidates.gather(1, order[:, :k]), found[:, :k]
    return indices, distances


def _unit(points: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(points, dim=1, keepdim=True, dtype=torch.float64)
    return torch.where(norms == 0, 0, points / norms).to(points.dtype)


def _centred(points: Tensor) -> Tensor:
    """Around the mean, rounded to a multiple of a power of two so that numbers of few digits, as integers, keep few.

    Scaled by a power of two, so that squares neither overflow nor vanish.
    """
    low, high = points.aminmax(dim=0)
    extent = (high.double() - low).max()
    exponent = torch.where(extent == 0, 0, extent.log2().floor())
    step = torch.exp2(exponent - 4)
    centre = (points.mean(0, dtype=torch.float64) / step).round() * step
    return ((points - centre) / torch.exp2(exponent)).to(points.dtype)


def _best(scores: Tensor, kept: int) -> Tensor:
    """(rows, kept) columns of the largest scores, ascending; of equal ones the lowest, which topk leaves open."""
    least = scores.topk(kept).values[:, -1:]
    above, tied = scores > least, scores == least
    tied &= tied.cumsum(1) <= kept - above.sum(1, keepdim=True)
    return (above | tied).nonzero()[:, 1].view(-1, kept)


def _distances(points: Tensor, own: Tensor, candidates: Tensor, metric: str) -> Tensor:
    """(rows, kept), of float64 sums rounded to the dtype of the points."""
    x, y = points[own].double()[:, None], points[candidates].double()
    if metric == "euclidean":
        return (x - y).square().sum(2).sqrt().to(points.dtype)
    lengths = (x.square().sum(2) * y.square().sum(2)).sqrt()
    similarity = torch.where(lengths == 0, 0, (x * y).sum(2) / lengths)
    return 1 - similarity.to(points.dtype)
