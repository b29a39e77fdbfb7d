"""mask_neurons: eight sets over the rows of a batch."""

import torch


def test_mask_neurons(time_operator, shape, dtype):
    x = torch.randn(shape.length, shape.ffn, dtype=dtype)
    masks = torch.rand(8, shape.ffn) < 0.01
    time_operator("mask_neurons", x, masks, torch.arange(shape.length) % 8)
