"""The published formulation of query importance, which qk_importance stands beside; it gives the query neurons alone."""

import torch

from benchmarks.operators.attention import attention
from benchmarks.operators.published import published_q


def test_published_q(benchmark, shape):
    benchmark.group = "qk_importance"
    torch.manual_seed(0)
    problem = attention(shape)
    with torch.no_grad():
        benchmark.pedantic(published_q, (problem.q, problem.k, problem.scale), rounds=3, warmup_rounds=1)
