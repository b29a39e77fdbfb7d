"""nearest_neighbors: for each point the k nearest others, by 1 - x y / (|x| |y|) or |x - y|.

A cosine distance is half the square between points of length 1, 1 - x y = |x - y|^2 / 2, so both metrics are one. In two
steps, in float64. First k + SPARE candidates, by scores x y - |y|^2 / 2 around the points' mean. A product of matrices
need not give two equal columns the same bits, so it is made of the distinct points, and equal points share a column.
Then the candidates' distances, which lose nothing where points are close.
"""

import torch
from torch import Tensor

SPARE = 3  # candidates beyond k: a neighbour is missed only if more are nearer by scores, and by rounding alone
SCORES = 2**23  # at a time
DIFFERENCES = 2**21  # between points and their candidates, at a time
SHORTENED = 12  # bits that are rounded off before distances are compared, so that rounding parts nothing that is equal
TINY = 1e-28  # what rounding leaves of half the square between equal directions, at most


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    result = torch.promote_types(points.dtype, torch.float32)
    cosine, points = metric == "cosine", points.double()
    zero = (points == 0).all(1) & cosine
    exponent = torch.zeros((), dtype=points.dtype, device=points.device) if cosine else _exponent(points)
    scaled = _unit(points) if cosine else points / torch.exp2(exponent)
    count, size = points.shape
    kept = min(k + SPARE, count - 1)
    distinct, column = torch.unique(_centred(scaled), dim=0, return_inverse=True)
    half = distinct.square().sum(1) / 2
    rows = max(1, min(SCORES // count, DIFFERENCES // (kept * size)))
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=result, device=points.device)
    for first in range(0, count, rows):
        own = torch.arange(first, min(first + rows, count), device=points.device)
        x = distinct[column[own]]
        scores = (x @ distinct.T - half)[:, column]
        of_zeros = x.square().sum(1, keepdim=True) / 2 - 1  # of half a square of 1
        scores = torch.where(zero | zero[own][:, None], of_zeros, scores)
        scores[own - first, own] = -torch.inf
        candidates = _best(scores, kept)
        found = (scaled[own][:, None] - scaled[candidates]).square().sum(2) / 2
        found = torch.where(zero[candidates] | zero[own][:, None], 1.0, _shortened(found, TINY if cosine else 0.0))
        found, order = found.sort(dim=1, stable=True)
        indices[own] = candidates.gather(1, order[:, :k])
        distances[own] = (found if cosine else (2 * found).sqrt() * torch.exp2(exponent))[:, :k].to(result)
    return indices, distances


def _unit(points: Tensor) -> Tensor:
    largest = points.abs().amax(1, keepdim=True)
    points = points / torch.where(largest == 0, 1, largest)  # squares of float64 may overflow
    return torch.where(largest == 0, 0, points / torch.linalg.vector_norm(points, dim=1, keepdim=True))


def _exponent(points: Tensor) -> Tensor:
    """Of the power of two that brings the points' extent near 1, so that squares neither overflow nor vanish."""
    low, high = points.aminmax(dim=0)
    extent = (high / 2 - low / 2).max()
    return torch.where(extent == 0, 0, extent.log2().floor() + 1)


def _centred(points: Tensor) -> Tensor:
    """Around the mean, rounded to a multiple of a power of two so that numbers of few digits, as integers, keep few."""
    low, high = points.aminmax(dim=0)
    extent = (high - low).max()
    step = torch.exp2(torch.where(extent == 0, 0, extent.log2().floor()) - 4)
    return points - (points.mean(0) / step).round() * step


def _best(scores: Tensor, kept: int) -> Tensor:
    """(rows, kept) columns of the largest scores, ascending; of equal ones the lowest, which topk leaves open."""
    least = scores.topk(kept).values[:, -1:]
    above, tied = scores > least, scores == least
    tied &= tied.cumsum(1) <= kept - above.sum(1, keepdim=True)
    return (above | tied).nonzero()[:, 1].view(-1, kept)


def _shortened(x: Tensor, tiny: float) -> Tensor:
    """0 below tiny; else without the last bits, rounded."""
    bits = (x.contiguous().view(torch.int64) + (1 << SHORTENED - 1)) & -(1 << SHORTENED)
    return torch.where(x < tiny, 0.0, bits.view(torch.float64))
