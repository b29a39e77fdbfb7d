"""Linear modules with quantised weights whose numbers are known: torchao's in 8 bits, bitsandbytes' in 4 and 8 bits.

torchao need not be installed: its class is known by its name. What is left out is no fixed linear map of its inputs, or
has not been compared.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from pymultiling.models.bitsandbytes_weights import bitsandbytes_kind, bitsandbytes_weight


def is_quantised_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether `dequantised_weight` gives the weight of the module."""
    return (type(module) is nn.Linear and is_of_torchao(module.weight)) or bitsandbytes_kind(module) is not None


def dequantised_weight(module: nn.Linear) -> Tensor:
    """Returns the floating-point numbers that the bits of a module's weight stand for, (outputs, inputs)."""
    return bitsandbytes_weight(module) if bitsandbytes_kind(module) is not None else dequantised(module.weight)


def is_of_torchao(weight: Tensor) -> bool:
    """Whether a tensor is torchao's in 8 bits, and products with it do not round the other factor."""
    kind = type(weight)
    if kind.__module__.partition(".")[0] != "torchao" or kind.__name__ != "Int8Tensor":
        return False
    return all(getattr(weight, name, None) is None for name in ("act_quant_kwargs", "act_pre_scale"))


@torch.no_grad()
def dequantised(weight: Tensor) -> Tensor:
    """Returns the floating-point numbers that the bits of torchao's weight stand for, in the dtype that it had."""
    return weight.dequantize()
