"""The points nearest to every point."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import require
from pymultiling.ops.dispatch import call

METRICS = ("cosine", "euclidean")


def nearest_neighbors(
    points: Tensor, k: int, *, metric: str = "cosine", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """For every point the k nearest others, nearest first.

        cosine:     distance[p, q] = 1 - x_p . x_q / (|x_p| |x_q|), 1 where a point is zero
        euclidean:  distance[p, q] = |x_p - x_q|

    A point is left out of its own neighbours by its index: points equal to it are among them. Of equal distances the
    lowest index comes first. The distances of all pairs are never in memory. Of sentences' embeddings in several
    languages these are the neighbours whose languages arXiv 2503.11280 looks at.

    A cosine distance is taken as half the squared distance of the points at length 1, which loses nothing where points are
    close. Scores in float32 choose k + 3 candidates or more; of these distances decide, in float64, of which the last 12
    bits are rounded off, so that rounding parts nothing that is equal. Where the rounding of scores leaves it open whether
    another point is nearer, distances to all points decide: in tight clusters, among many equal points, or beside a
    dimension in which all are large. So the neighbours are those of float64, whatever the dtype, as long as the roundings
    of a score's D terms do not add up to more than 2 sqrt(D) of them, some seven standard deviations.

    Args:
        points: (P, D), any floating dtype, finite.
        k: 1 to P - 1.
        metric: "cosine" or "euclidean".
        backend: "auto", "triton", "cpp" or "torch". Triton's kernel takes k up to 16; above,
            "auto" runs plain PyTorch on a GPU.

    Returns:
        Indices (P, k) int64 and distances (P, k) float32, or float64 for float64 points.

    Raises:
        ValueError: shapes, dtypes, k or the metric do not fit; a point is not finite. Not the latter on a GPU, whose
            kernel does not wait for the points to be looked at: there such a point, or one whose square is not finite
            in float32, is no other's neighbour, and where fewer than k neighbours are left, as for itself, indices
            are -1 and distances NaN.
        BackendUnavailable: a forced backend cannot run here.
    """
    require(points.ndim == 2 and points.shape[1] > 0, f"points must be (P, D), D > 0, got {tuple(points.shape)}")
    require(points.is_floating_point(), f"points must be floating point, got {points.dtype}")
    require(1 <= k < points.shape[0], f"k must be 1 to {points.shape[0] - 1} for {points.shape[0]} points, got {k}")
    require(metric in METRICS, f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    return call("nearest_neighbors", points, k, metric, backend=backend)
