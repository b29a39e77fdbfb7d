"""Distances of all pairs of points, for the tests of nearest_neighbors."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-12  # error of distances relative to |x| |y|, for points of any dtype


def all_distances(points: Tensor, metric: str) -> Tensor:
    """Returns the distances of all pairs, (P, P) float64, infinite between a point and itself."""
    x = points.double()
    if metric == "euclidean":
        distances = torch.stack([(x - point).square().sum(1).sqrt() for point in x])
    else:
        norms = x.norm(dim=1)
        lengths = norms[:, None] * norms
        unit = torch.where(norms[:, None] == 0, 0, x / norms[:, None])  # 1 - x y would lose digits to rounding
        distances = torch.stack([(unit - point).square().sum(1) / 2 for point in unit])
        distances = torch.where(lengths == 0, 1.0, distances)
    return distances.fill_diagonal_(torch.inf)


def rounding(points: Tensor, metric: str) -> float:
    """Returns the absolute rounding error that cosine distances, or squared euclidean distances, may have."""
    x = points.double()
    size = 1.0 if metric == "cosine" else float((x - x.mean(0)).square().sum(1).max())
    return ROUNDING * size
