"""qk_importance of one layer, beside the published formulation, which gives the query neurons alone."""

import pytest
import torch

from benchmarks.operators.published import published_q


def attention(shape, dtype=torch.float32):
    """Rotated and plain q and k of unit scale, and the rotation's tables."""
    torch.manual_seed(0)
    q = torch.randn(1, shape.heads, shape.length, shape.head_size, dtype=dtype)
    k = torch.randn(1, shape.kv_heads, shape.length, shape.head_size, dtype=dtype)
    frequencies = 10000.0 ** -(torch.arange(0, shape.head_size, 2) / shape.head_size)
    angles = (torch.arange(shape.length)[:, None] * frequencies).repeat(1, 2)[None]
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return rotate(q, cos, sin), rotate(k, cos, sin), q, k, cos, sin


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def test_qk_importance(time_operator, backend, shape):
    if backend == "torch.compile":
        pytest.skip("the reference loops over neurons in Python: torch.compile would unroll every one")
    valid = torch.ones(1, shape.length, dtype=torch.bool)
    scale = shape.head_size**-0.5
    time_operator("qk_importance", *attention(shape), valid, None, None, scale, None, None, False)


def test_published_q(benchmark, shape):
    benchmark.group = "qk_importance"
    q, k, *_ = attention(shape)
    with torch.no_grad():
        benchmark.pedantic(published_q, (q, k, shape.head_size**-0.5), rounds=3, warmup_rounds=1)


def test_qk_estimate(time_operator, backend, shape):
    if backend == "torch.compile":
        pytest.skip("the reference loops over heads in Python: torch.compile would unroll every one")
    valid = torch.ones(1, shape.length, dtype=torch.bool)
    scale = shape.head_size**-0.5
    time_operator("qk_estimate", *attention(shape), valid, None, None, scale, None, None, False)
