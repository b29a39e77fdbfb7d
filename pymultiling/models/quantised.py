"""Linear modules with weights in 8 bits of torchao that compute W x + b in floating-point numbers, W made of the bits.

torchao need not be installed: its class is known by its name. What is left out is no fixed linear map of its inputs, or
has not been compared: modules that round their inputs too, such as those of bitsandbytes in 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_quantised_linear(module: nn.Module) -> bool:
    """Whether `dequantised` gives the weight of the module."""
    return type(module) is nn.Linear and is_quantised(module.weight)


def is_quantised(weight: Tensor) -> bool:
    """Whether a tensor is torchao's in 8 bits, and products with it do not round the other factor."""
    kind = type(weight)
    if kind.__module__.partition(".")[0] != "torchao" or kind.__name__ != "Int8Tensor":
        return False
    return all(getattr(weight, name, None) is None for name in ("act_quant_kwargs", "act_pre_scale"))


@torch.no_grad()
def dequantised(weight: Tensor) -> Tensor:
    """Returns the floating-point numbers that the bits of a weight stand for, in the dtype that it had."""
    return weight.dequantize()
