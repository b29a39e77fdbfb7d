"""Finds the points nearest to every point."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import Backend, Metric
from pymultiling.ops.dispatch import call_tuple


def nearest_neighbors(
    points: Tensor, k: int, *, metric: Metric = "cosine", backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Finds the k nearest other points of every point, nearest first.

        cosine:     distance[p, q] = 1 - x_p . x_q / (|x_p| |x_q|), or 1 if one of the points is zero
        euclidean:  distance[p, q] = |x_p - x_q|

    A point is excluded from its own neighbours by its index, so points equal to it are among them. Among equal
    distances the lowest index comes first. The distances of all pairs are never in memory at once. For embeddings of
    sentences in several languages these are the neighbours whose languages are counted in the paper below.

    The neighbours are those of float64, whatever the dtype of the points:

    * A cosine distance is computed as half the squared distance of the points scaled to length 1, which loses no digits
      where points are close.
    * Dot products in float32 select k + 3 or more candidates. The float64 distances of the candidates decide; their
      last 12 bits are rounded off, so that rounding does not separate equal distances.
    * Where the rounding of the dot products leaves open whether another point is nearer, the float64 distances to all
      points decide. This happens in tight clusters, among many equal points, and where all points are large in one
      dimension.
    * This holds as long as the rounding errors of the D terms of a dot product do not add up to more than 2 sqrt(D) of
      them, about seven standard deviations.

    Args:
        points: (P, D), any floating dtype, finite.
        k: number of neighbours, 1 to P - 1.
        metric: "cosine" or "euclidean".
        backend: "auto", "triton", "cpp" or "torch". Triton's kernel takes k up to 16. For larger k "auto" runs plain
            PyTorch on a GPU.

    Returns:
        Indices (P, k) int64 and distances (P, k) in float32, or in float64 for float64 points. Not differentiable.

    Raises:
        ValueError: a shape, a dtype, k or the metric does not fit, or a point is not finite. GPU kernels do not check
            that points are finite: there a point that is not finite, or whose square is not finite in float32, is no
            neighbour of any other point. Where fewer than k neighbours are left, and for such a point itself, indices
            are -1 and distances NaN.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2503.11280.
    """
    indices, distances = call_tuple("nearest_neighbors", points, k, metric, backend=backend)
    return indices, distances
