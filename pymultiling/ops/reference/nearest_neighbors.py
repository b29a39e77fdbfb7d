"""nearest_neighbors: for each point the k nearest other points, by 1 - x y / (|x| |y|) or by |x - y|.

A cosine distance is half the squared distance of the points scaled to length 1, 1 - x y = |x - y|^2 / 2, so both
metrics are computed from the half square |x - y|^2 / 2. There are three steps, in float64. First, k + SPARE candidates
are selected by their proximity x y - |y|^2 / 2, relative to the mean of the points. A matrix product may give two equal
columns different bits, so it is computed for the distinct points, and equal points share a column. Second, the
distances of the candidates are computed from differences, which lose no digits where points are close. Third, where the
rounding of the proximity leaves open whether another point is nearer, as among points of very different magnitudes, the
distances of all points are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPARE = 3  # candidates beyond k
PROXIMITIES = 2**23  # most proximities in memory at once
DIFFERENCES = 2**21  # most coordinates of differences between points and their candidates in memory at once
# Last bits of a half square that are rounded off before comparisons, so that rounding does not separate equal distances
ROUNDED_BITS = 12
ROUNDING = 2.0**-53  # of float64
TINY = 1e-28  # upper bound of the half square that rounding leaves between equal directions


def nearest_neighbors(points: Tensor, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Finds the k nearest other points of every point, nearest first, and of equally far points the first.

    Args:
        points: (P, D), finite.
        k: number of neighbours, 1 to P - 1.
        metric: "cosine" (distance 1 if one of the points is zero) or "euclidean".

    Returns:
        Indices (P, k) int64 and distances (P, k) in float32, or in float64 for float64 points.
    """
    result_dtype = torch.promote_types(points.dtype, torch.float32)
    cosine, points = metric == "cosine", points.double()
    is_zero = (points == 0).all(1) & cosine
    exponent = torch.zeros((), dtype=points.dtype, device=points.device) if cosine else _extent_exponent(points)
    scaled = _unit(points) if cosine else points / torch.exp2(exponent)
    count, size = points.shape
    candidate_count = min(k + SPARE, count - 1)
    distinct, column = torch.unique(_centre(scaled), dim=0, return_inverse=True)
    half_squares = distinct.square().sum(1) / 2
    rows = max(1, min(PROXIMITIES // count, DIFFERENCES // (candidate_count * size)))
    indices = torch.empty(count, k, dtype=torch.int64, device=points.device)
    distances = torch.empty(count, k, dtype=result_dtype, device=points.device)
    for first in range(0, count, rows):
        row = torch.arange(first, min(first + rows, count), device=points.device)
        x = distinct[column[row]]
        proximity = (x @ distinct.T - half_squares)[:, column]
        # The proximity that belongs to half square 1, which is the cosine distance from a point that is zero.
        proximity_to_zero = x.square().sum(1, keepdim=True) / 2 - 1
        proximity = torch.where(is_zero | is_zero[row][:, None], proximity_to_zero, proximity)
        proximity[row - first, row] = -torch.inf
        candidates = _largest_columns(proximity, candidate_count)
        half, neighbors = _nearest_of(scaled, is_zero, row, candidates, k, cosine)
        if candidate_count < count - 1:
            # No other point's proximity exceeds the lowest of the candidates. A proximity is |x|^2 / 2 minus the half
            # square, up to rounding, which for a sum of products grows with the square root of their number.
            length, farthest = torch.linalg.vector_norm(x, dim=1), half[:, -1]
            reach = length + (2 * farthest).sqrt()
            error = ROUNDING * (length * reach * (2 * size**0.5 + 4) + 4 * reach.square())
            left_out = length.square() / 2 - proximity.gather(1, candidates).amin(1)
            is_open = (farthest >= left_out - error) & ~is_zero[row]
            for i in torch.split(is_open.nonzero().squeeze(1), max(1, DIFFERENCES // (count * size))):
                others = torch.arange(count - 1, device=points.device)
                others = others + (others >= row[i][:, None])  # all points but the row's own
                half[i], neighbors[i] = _nearest_of(scaled, is_zero, row[i], others, k, cosine)
        indices[row] = neighbors
        distances[row] = (half if cosine else (2 * half).sqrt() * torch.exp2(exponent)).to(result_dtype)
    return indices, distances


def _nearest_of(
    scaled: Tensor, is_zero: Tensor, row: Tensor, candidates: Tensor, k: int, cosine: bool
) -> tuple[Tensor, Tensor]:
    """Returns the half squares of the k nearest candidates of each point in `row`, nearest first, and their indices.

    Args:
        scaled: (P, D), all points, scaled as the metric needs them.
        is_zero: (P,) bool, the points whose cosine distance to every point is 1.
        row: (rows,) int64, indices of points.
        candidates: (rows, candidates) int64, indices of other points, in ascending order.
        k: number of neighbours.
        cosine: whether the metric is the cosine distance.
    """
    half = (scaled[row][:, None] - scaled[candidates]).square().sum(2) / 2
    half = torch.where(is_zero[candidates] | is_zero[row][:, None], 1.0, _round_off(half, TINY if cosine else 0.0))
    half, order = half.sort(dim=1, stable=True)
    return half[:, :k], candidates.gather(1, order[:, :k])


def _unit(points: Tensor) -> Tensor:
    """Scales the points (P, D) to length 1; zero stays zero."""
    largest = points.abs().amax(1, keepdim=True)
    points = points / torch.where(largest == 0, 1, largest)  # squares of float64 may overflow
    return torch.where(largest == 0, 0, points / torch.linalg.vector_norm(points, dim=1, keepdim=True))


def _extent_exponent(points: Tensor) -> Tensor:
    """Returns e, a tensor without dimensions. Points that are divided by 2^e have squared distances without overflow.

    Half of the largest range of a coordinate is between 2^(e - 1) and 2^e. If all points are equal, e is 0.
    """
    low, high = points.aminmax(dim=0)
    extent = (high / 2 - low / 2).max()  # high - low may overflow
    return torch.where(extent == 0, 0, extent.log2().floor() + 1)


def _centre(points: Tensor) -> Tensor:
    """Subtracts the mean, rounded to a multiple of a power of two, so that numbers of few digits keep few digits."""
    low, high = points.aminmax(dim=0)
    extent = (high - low).max()
    step = torch.exp2(torch.where(extent == 0, 0, extent.log2().floor()) - 4)
    return points - (points.mean(0) / step).round() * step


def _largest_columns(x: Tensor, count: int) -> Tensor:
    """Returns the indices of the `count` largest values of each row, (rows, count), in ascending order.

    Of equal values it takes the first, unlike topk.
    """
    smallest = x.topk(count).values[:, -1:]  # smallest value that is taken
    above, tied = x > smallest, x == smallest
    tied &= tied.cumsum(1) <= count - above.sum(1, keepdim=True)
    return (above | tied).nonzero()[:, 1].view(-1, count)


def _round_off(x: Tensor, tiny: float) -> Tensor:
    """Rounds off the last ROUNDED_BITS bits of x, and sets values below `tiny` to 0."""
    bits = (x.contiguous().view(torch.int64) + (1 << ROUNDED_BITS - 1)) & -(1 << ROUNDED_BITS)
    return torch.where(x < tiny, 0.0, bits.view(torch.float64))
