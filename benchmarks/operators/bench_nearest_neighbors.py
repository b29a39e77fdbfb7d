"""Times nearest_neighbors on sentences as ILO (arXiv 2503.11280) compares them: 1,012 in each of 31 languages.

It also times the matrix products alone, which are a lower bound for a search with a library's products, and plain
PyTorch with topk, which chooses arbitrarily among equal neighbours.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from pymultiling import ops
from pymultiling.ops.registry import OPERATORS

COUNT, SIZE, K = 31 * 1012, 224, 5
ROWS, COLUMNS = 256, 2048  # the tiles in which the products were fastest


def multiply_all(points: Tensor) -> None:
    """Computes the matrix products of all points, tile by tile."""
    tile = torch.empty(ROWS, COLUMNS)
    for rows in points.split(ROWS):
        for columns in points.split(COLUMNS):
            torch.mm(rows, columns.T, out=tile[: len(rows), : len(columns)])


def search_with_topk(points: Tensor) -> None:
    """Finds the neighbours of all points with matrix products and topk."""
    for first in range(0, len(points), ROWS):
        similarities = points[first : first + ROWS] @ points.T
        similarities.diagonal(first).fill_(-torch.inf)
        similarities.topk(K)


RUNS: dict[str, Callable[[Tensor], object]] = {
    "cpp, cosine": lambda points: ops.nearest_neighbors(points, K, backend="cpp"),
    "cpp, euclidean": lambda points: ops.nearest_neighbors(points, K, metric="euclidean", backend="cpp"),
    "products alone": multiply_all,
    "mm and topk": search_with_topk,
    "reference, cosine": lambda points: OPERATORS["nearest_neighbors"].reference()(points, K, "cosine"),
}


@pytest.mark.parametrize("name", RUNS)
def test_nearest_neighbors(benchmark: BenchmarkFixture, name: str) -> None:
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(COUNT, SIZE))
    benchmark.group = "nearest_neighbors"
    benchmark.extra_info.update(input_bytes=points.nbytes)
    with torch.no_grad():
        benchmark.pedantic(RUNS[name], (points,), rounds=3, warmup_rounds=1)
