"""gated_ffn: the product of an FFN and all its statistics."""

import torch


def test_gated_ffn(time_operator, shape, dtype):
    gate, up = torch.randn(2, shape.length, shape.ffn, dtype=dtype)
    time_operator("gated_ffn", gate, up, "silu", torch.zeros(shape.length, dtype=torch.int64), 1, None, None)
