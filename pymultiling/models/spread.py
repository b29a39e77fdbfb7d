"""Models whose projections are spread over processes (transformers' tp_plan): each computes a part of the neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from pymultiling.errors import UnsupportedModel
from pymultiling.models.linear import is_transposed, weight_of


@dataclass(frozen=True)
class TensorParallel:
    """Which part of a model's neurons is this process's; they stand in the order of the processes."""

    rank: int = 0
    count: int = 1
    _group: object = None

    def own(self, width: int, whole: int) -> slice:
        """Of `whole` neurons those that a tensor of `width` neurons has here."""
        return slice(None) if width == whole else slice(self.rank * width, (self.rank + 1) * width)

    def gather(self, values: Tensor, whole: int) -> Tensor:
        """(..., whole) of all processes; what is whole already stays as it is."""
        if values.shape[-1] == whole:
            return values
        found = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self.count)]
        distributed.all_gather(found, values.contiguous(), group=self._group)
        return torch.cat(found, -1)


def tensor_parallel_of(model: nn.Module, weight: Tensor) -> TensorParallel:
    """The part that is this process's, by one of the weights that are spread.

    Raises:
        UnsupportedModel: it is spread in another way.
    """
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        if mesh.ndim != 1:
            raise UnsupportedModel(
                f"the model is spread over a mesh of {mesh.ndim} dimensions: tensor parallelism has one"
            )
        return TensorParallel(mesh.get_local_rank(), mesh.size(), mesh.get_group())
    if (getattr(model, "tp_size", None) or 1) > 1:
        raise UnsupportedModel(
            "the model is spread over processes in the way of an older transformers, whose weights do not say so: install a "
            "newer one, or load the model whole"
        )
    return TensorParallel()


def process_count(model: nn.Module) -> int:
    """Over how many processes a model of any kind is spread.

    Raises:
        UnsupportedModel: as `tensor_parallel_of`.
    """
    weights = list(model.parameters())
    spread = [weight for weight in weights if isinstance(weight, DTensor)]
    return tensor_parallel_of(model, (spread or weights)[0]).count


def whole(values: Tensor) -> Tensor:
    """What every process has: the tensor itself, not spread."""
    return values.full_tensor() if isinstance(values, DTensor) else values


def weight_for(linear: nn.Module, inputs: int) -> Tensor:
    """The weight's columns (outputs, inputs) that so many inputs are multiplied by: this process's, or all of them."""
    weight = linear.weight.detach()
    if isinstance(weight, DTensor):
        own = weight.to_local()
        weight = own if own.shape[0 if is_transposed(linear) else 1] == inputs else weight.full_tensor()
        return weight.T if is_transposed(linear) else weight
    return weight_of(linear).detach()
