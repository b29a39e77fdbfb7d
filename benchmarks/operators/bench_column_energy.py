"""column_energy at the input of a down projection."""

import torch


def test_column_energy(time_operator, shape, dtype):
    x = torch.randn(shape.length, shape.ffn, dtype=dtype)
    time_operator("column_energy", x, torch.zeros(shape.length, dtype=torch.int64), 1)
