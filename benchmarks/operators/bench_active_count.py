"""active_count at the gate of an FFN."""

import torch


def test_active_count(time_operator, shape, dtype):
    x = torch.randn(shape.length, shape.ffn, dtype=dtype)
    time_operator("active_count", x, torch.zeros(shape.length, dtype=torch.int64), 1)
