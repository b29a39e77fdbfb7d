"""Linear modules of a model, and which of their outputs are the neurons of a site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
PLAIN_TENSORS = (Tensor, nn.Parameter, DTensor)  # quantised weights may be of other classes, and claim a float dtype

Linear: TypeAlias = nn.Linear | Conv1D


def is_linear(module: nn.Module) -> TypeGuard[Linear]:
    """Whether the module is torch's Linear or transformers' Conv1D (GPT-2) with floating-point weights."""
    return isinstance(module, (nn.Linear, Conv1D)) and is_plain(module.weight)


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is floating-point numbers in memory, and not quantised."""
    return type(weight) in PLAIN_TENSORS and weight.dtype in DTYPES


def is_transposed(linear: nn.Module) -> bool:
    """Whether the module stores its weight as (inputs, outputs)."""
    return isinstance(linear, Conv1D)


def weight_of(linear: Linear) -> Tensor:
    """Returns the weight as (outputs, inputs); it is a view of the stored weight."""
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
        block = weight_of(self.module).shape[0] // self.groups
        return torch.unflatten(output, -1, (-1, block))[..., self.start : self.stop].flatten(-2)

    def row_indices(self) -> Tensor:
        """Returns (width,) int64: for every neuron the index of its output, which is its row of `weight_of(module)`."""
        outputs = torch.arange(weight_of(self.module).shape[0])
        return outputs.view(self.groups, -1)[:, self.start : self.stop].flatten()

    def index(self) -> slice | Tensor:
        """Returns an index that selects the neurons from the outputs: a slice where the outputs are contiguous."""
        return slice(self.start, self.stop) if self.groups == 1 else self.row_indices()
