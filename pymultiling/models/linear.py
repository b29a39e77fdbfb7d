"""Linear modules of a model, and which of their outputs are a site's neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def is_linear(module: nn.Module) -> bool:
    """Whether it is torch's Linear or transformers' Conv1D (GPT-2), with weights that can be computed with."""
    return isinstance(module, (nn.Linear, Conv1D)) and module.weight.dtype in DTYPES


def is_transposed(linear: nn.Module) -> bool:
    """Whether its weight is stored (inputs, outputs)."""
    return isinstance(linear, Conv1D)


def weight_of(linear: nn.Module) -> Tensor:
    """The weight as (outputs, inputs); a view."""
    return linear.weight.T if is_transposed(linear) else linear.weight


@dataclass(frozen=True, eq=False)
class Projection:
    """Outputs of a linear module: those from start to stop of each of `groups` equal blocks of them.

    One group: a whole module, or a part of a fused projection. More: fused by head, such as [heads, 3, head size].
    """

    module: nn.Module
    start: int
    stop: int
    groups: int = 1

    @property
    def width(self) -> int:
        return self.groups * (self.stop - self.start)

    def of(self, output: Tensor) -> Tensor:
        """(..., outputs) -> (..., width), in the order of the neurons."""
        if self.groups == 1:
            return output[..., self.start : self.stop]
        block = weight_of(self.module).shape[0] // self.groups  # of a part of the outputs, which has fewer blocks, too
        return output.unflatten(-1, (-1, block))[..., self.start : self.stop].flatten(-2)

    def row_indices(self) -> Tensor:
        """(width,) int64: the output, and so the row of `weight_of(module)`, of every neuron."""
        outputs = torch.arange(weight_of(self.module).shape[0])
        return outputs.view(self.groups, -1)[:, self.start : self.stop].flatten()

    def place(self) -> slice | Tensor:
        """What picks its outputs: a slice where it can."""
        return slice(self.start, self.stop) if self.groups == 1 else self.row_indices()
