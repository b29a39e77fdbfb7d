"""The published formulation of query importance, which the benchmarks time, against qk_importance."""

import torch

from benchmarks.operators.published import published_q
from pymultiling import ops


def test_equals_qk_importance_of_dimensions_zeroed_after_the_rotation():
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 9, 8, dtype=torch.float64), torch.randn(1, 2, 9, 8, dtype=torch.float64)
    expected, _ = ops.qk_importance(q, k, scale=8**-0.5, backend="torch")
    torch.testing.assert_close(published_q(q, k, 8**-0.5).flatten(), expected[0])


def test_computes_on_the_device_of_its_inputs():
    """On the device "meta", where an operation with a tensor of the CPU fails as it does on a GPU."""
    q = torch.empty(1, 1, 9, 8, device="meta")
    assert published_q(q, q, 8**-0.5).device == q.device
