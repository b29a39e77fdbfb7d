"""Linear modules of a model, and which of their outputs are the neurons of a site.

A linear module is torch's Linear, transformers' Conv1D (GPT-2), a quantised one of `quantised.py`, or one of these
inside an adapter of PEFT that is a fixed linear map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from pymultiling.models.adapters import Effective, adapted_linear, effective
from pymultiling.models.bitsandbytes_weights import bitsandbytes_kind, module_dtype, rounding_dtype
from pymultiling.models.quantised import dequantised_weight, is_quantised_linear

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PLAIN_TENSORS = (Tensor, nn.Parameter, DTensor)  # quantised weights may be of other classes, and claim a float dtype

PlainLinear: TypeAlias = nn.Linear | Conv1D
Linear: TypeAlias = nn.Module  # one that `is_linear` accepts


def is_linear(module: nn.Module) -> bool:
    """Whether `weight_of` gives the weight of the module."""
    base = adapted_linear(module)
    return is_plain_linear(module) or is_quantised_linear(module) if base is None else is_linear(base)


def is_plain_linear(module: nn.Module) -> TypeGuard[PlainLinear]:
    """Whether the module is torch's Linear or transformers' Conv1D with floating-point weights."""
    return isinstance(module, (nn.Linear, Conv1D)) and is_plain(module.weight)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is floating-point numbers in memory, and not quantised."""
    return type(weight) in PLAIN_TENSORS and weight.dtype in DTYPES


def is_transposed(linear: nn.Module) -> bool:
    """Whether the module stores its weight as (inputs, outputs)."""
    return isinstance(linear, Conv1D)


def inner_linear(linear: Linear) -> PlainLinear:
    """Returns the module that stores the weight: the module itself, or the one inside its adapters."""
    base = adapted_linear(linear)
    return cast("PlainLinear", linear) if base is None else inner_linear(base)


def outputs_of(linear: Linear) -> int:
    """Returns the number of outputs, which is that of rows of the weight."""
    return _shape(inner_linear(linear))[0]


def inputs_of(linear: Linear) -> int:
    """Returns the number of inputs, which is that of columns of the weight."""
    return _shape(inner_linear(linear))[1]


def device_of(linear: Linear) -> torch.device:
    """Returns the device of the weight."""
    return inner_linear(linear).weight.device


def dtype_of(linear: Linear) -> torch.dtype:
    """Returns the dtype of what `weight_of` returns."""
    inner = inner_linear(linear)
    return inner.weight.dtype if bitsandbytes_kind(inner) is None else module_dtype(inner)


def rounding_dtype_of(linear: Linear) -> torch.dtype:
    """Returns the dtype with the fewest digits to which the module rounds factors and outputs of its product."""
    inner = inner_linear(linear)
    return inner.weight.dtype if bitsandbytes_kind(inner) is None else rounding_dtype(inner)


def weight_of(linear: Linear) -> Tensor:
    """Returns the weight as (outputs, inputs), as the module computes with it.

    It is a view of the stored weight, or is computed from its bits and from the weights of active adapters.
    """
    return effective_of(linear).weight


def bias_of(linear: Linear) -> Tensor | None:
    """Returns the bias, (outputs,), as the module computes with it; None where there is none."""
    return inner_linear(linear).bias if adapted_linear(linear) is None else effective_of(linear).bias


def magnitude_of(linear: Linear) -> Tensor:
    """Returns `Effective.magnitude`, (outputs, inputs). Without adapters it is the weight: signs do not matter."""
    magnitude = effective_of(linear, has_magnitude=True).magnitude
    assert magnitude is not None, "it was asked for"
    return magnitude


def effective_of(linear: Linear, has_magnitude: bool = False) -> Effective:
    """Returns weight and bias as the module computes with them, and `Effective.magnitude` where it is asked for."""
    base = adapted_linear(linear)
    if base is None:
        inner = inner_linear(linear)
        weight = _stored_weight(inner)
        return Effective(weight, inner.bias, weight if has_magnitude else None)
    return effective(linear, effective_of(base, has_magnitude))


def _shape(linear: PlainLinear) -> tuple[int, int]:
    if isinstance(linear, nn.Linear) and not is_plain(linear.weight):  # it may be stored in another shape
        return linear.out_features, linear.in_features
    rows, columns = linear.weight.shape
    return (columns, rows) if is_transposed(linear) else (rows, columns)


def _stored_weight(linear: PlainLinear) -> Tensor:
    if is_quantised_linear(linear):
        return dequantised_weight(linear)
    return linear.weight.T if is_transposed(linear) else linear.weight


@dataclass(frozen=True, eq=False)
class Projection:
    """Some outputs of a linear module: those from `start` to `stop` in each of `groups` equal blocks.

    With one group, the projection is a whole module or a contiguous part of a fused one. With more groups it is fused
    by head, for example as [heads, 3, head size].
    """

    module: Linear
    start: int
    stop: int
    groups: int = 1

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.groups * (self.stop - self.start)

    def select(self, output: Tensor) -> Tensor:
        """Selects the neurons, in their order, from the module's output: (..., outputs) -> (..., width)."""
        if self.groups == 1:
            return output[..., self.start : self.stop]
        # The block size is read off the weight, because a tensor-parallel output has fewer blocks of the same size.
        block = outputs_of(self.module) // self.groups
        return torch.unflatten(output, -1, (-1, block))[..., self.start : self.stop].flatten(-2)

    def row_indices(self) -> Tensor:
        """Returns (width,) int64: for every neuron the index of its output, which is its row of `weight_of(module)`."""
        outputs = torch.arange(outputs_of(self.module))
        return outputs.view(self.groups, -1)[:, self.start : self.stop].flatten()

    def index(self) -> slice | Tensor:
        """Returns an index that selects the neurons from the outputs: a slice where the outputs are contiguous."""
        return slice(self.start, self.stop) if self.groups == 1 else self.row_indices()
