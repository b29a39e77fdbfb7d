"""Times the published formulation of query importance, for comparison with qk_importance."""

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.operators.attention import attention
from benchmarks.operators.published import published_q
from benchmarks.operators.shapes import Shape


def test_published_q(benchmark: BenchmarkFixture, shape: Shape) -> None:
    benchmark.group = "qk_importance"
    torch.manual_seed(0)
    problem = attention(shape)
    with torch.no_grad():
        benchmark.pedantic(published_q, (problem.q, problem.k, problem.scale), rounds=3, warmup_rounds=1)
