"""Tensor-parallel models (transformers' tp_plan): each process computes a part of the neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from pymultiling.errors import UnsupportedModel
from pymultiling.models.adapters import MERGE
from pymultiling.models.linear import Linear, inner_linear, is_transposed, weight_of


@dataclass(frozen=True)
class TensorParallel:
    """Which part of a model's neurons this process computes. The parts are in the order of the ranks.

    Attributes:
        rank: number of this process among those that the model is spread over.
        count: how many processes the model is spread over; 1: it is not spread.
    """

    rank: int = 0
    count: int = 1
    _group: distributed.ProcessGroup | None = None

    def local_slice(self, local_width: int, full_width: int) -> slice:
        """Returns the indices, among all `full_width` neurons, of the `local_width` neurons that this process holds."""
        if local_width == full_width:
            return slice(None)
        return slice(self.rank * local_width, (self.rank + 1) * local_width)

    def gather(self, values: Tensor, full_width: int) -> Tensor:
        """Concatenates the values of all processes to (..., full_width); full values are returned as they are."""
        if values.shape[-1] == full_width:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.count)]
        distributed.all_gather(parts, values.contiguous(), group=self._group)
        return torch.cat(parts, -1)


def tensor_parallel_of(model: nn.Module, weight: Tensor) -> TensorParallel:
    """Returns how the model is spread over processes, judged by one weight that tensor parallelism would split.

    Raises:
        UnsupportedModel: the model is spread over processes in another way.
    """
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        if mesh.ndim != 1:
            raise UnsupportedModel(
                f"the model is spread over a mesh of {mesh.ndim} dimensions, and tensor parallelism has one: load it "
                "with tp_plan, or whole"
            )
        return TensorParallel(mesh.get_local_rank(), mesh.size(), mesh.get_group())
    if (getattr(model, "tp_size", None) or 1) > 1:
        raise UnsupportedModel(
            "an older transformers has spread the model over processes, and its weights do not show how: install a "
            "newer transformers, or load the model whole"
        )
    return TensorParallel()


def is_spread(model: nn.Module) -> bool:
    """Whether a model, or any of its parts, is spread over processes."""
    return (getattr(model, "tp_size", None) or 1) > 1 or any(
        isinstance(weight, DTensor) for weight in model.parameters()
    )


def process_count(model: nn.Module) -> int:
    """Returns over how many processes a model of any kind is spread.

    Raises:
        UnsupportedModel: as in `tensor_parallel_of`.
    """
    weights = list(model.parameters())
    split_weights = [weight for weight in weights if isinstance(weight, DTensor)]
    return tensor_parallel_of(model, (split_weights or weights)[0]).count


def full_tensor(values: Tensor) -> Tensor:
    """Returns the whole tensor. If its parts are in several processes, they are gathered."""
    return values.full_tensor() if isinstance(values, DTensor) else values


def local_weight(linear: Linear, inputs: int) -> Tensor:
    """Returns the weight (outputs, inputs) that multiplies this number of inputs: this process's part, or all of it."""
    weight = inner_linear(linear).weight.detach()
    if isinstance(weight, DTensor):
        if inner_linear(linear) is not linear:
            raise UnsupportedModel(f"the model is spread over processes, and has adapters of PEFT: {MERGE}")
        local = weight.to_local()
        weight = local if local.shape[0 if is_transposed(linear) else 1] == inputs else weight.full_tensor()
        return weight.T if is_transposed(linear) else weight
    return weight_of(linear).detach()
