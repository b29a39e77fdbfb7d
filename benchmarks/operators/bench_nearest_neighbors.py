"""nearest_neighbors of the sentences that ILO (arXiv 2503.11280) compares, 1,012 in each of 31 languages.

Beside it matrix products alone, the least that a search by a library's products takes, and plain PyTorch with topk,
which leaves open which of equal ones it takes.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pymultiling import ops
from pymultiling.ops.registry import OPERATORS

COUNT, SIZE, K = 31 * 1012, 224, 5
ROWS, COLUMNS = 256, 2048  # the tiles in which the products were fastest


def products(points: Tensor) -> None:
    tile = torch.empty(ROWS, COLUMNS)
    for rows in points.split(ROWS):
        for columns in points.split(COLUMNS):
            torch.mm(rows, columns.T, out=tile[: len(rows), : len(columns)])


def with_topk(points: Tensor) -> None:
    for first in range(0, len(points), ROWS):
        scores = points[first : first + ROWS] @ points.T
        scores.diagonal(first).fill_(-torch.inf)
        scores.topk(K)


RUNS: dict[str, Callable[[Tensor], object]] = {
    "cpp, cosine": lambda points: ops.nearest_neighbors(points, K, backend="cpp"),
    "cpp, euclidean": lambda points: ops.nearest_neighbors(points, K, metric="euclidean", backend="cpp"),
    "products alone": products,
    "mm and topk": with_topk,
    "reference, cosine": lambda points: OPERATORS["nearest_neighbors"].reference()(points, K, "cosine"),
}


@pytest.mark.parametrize("name", RUNS)
def test_nearest_neighbors(benchmark, name):
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(COUNT, SIZE))
    benchmark.group = "nearest_neighbors"
    benchmark.extra_info.update(input_bytes=points.nbytes)
    with torch.no_grad():
        benchmark.pedantic(RUNS[name], (points,), rounds=3, warmup_rounds=1)
