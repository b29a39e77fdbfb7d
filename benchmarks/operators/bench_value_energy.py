"""value_energy at the input of an o_proj."""

import torch


def test_value_energy(time_operator, shape, dtype):
    group = shape.heads // shape.kv_heads
    gram = torch.randn(shape.kv_heads, shape.head_size, group, group)
    x = torch.randn(shape.length, shape.hidden, dtype=dtype)
    time_operator("value_energy", x, gram, torch.zeros(shape.length, dtype=torch.int64), 1)
