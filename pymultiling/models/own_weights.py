"""Checks that a weight belongs to one module alone, so that it can be trained by itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pymultiling.errors import UnsupportedModel
from pymultiling.models.adapters import MERGE
from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import Linear, PlainLinear, is_plain_linear


def require_own_weights(decoder: Decoder, modules: Iterable[Linear]) -> None:
    """Checks that training differences to the weights of these modules changes nothing else.

    Args:
        decoder: the model.
        modules: linear modules of its layers.

    Raises:
        UnsupportedModel: a module computes its weight or bias from other tensors, or shares one with another module or
            layer. The message names the module.
    """
    names = {module: name for name, module in decoder.model.named_modules()}
    layers_of, owners = _layers_by_module(decoder), _tensors_by_memory(decoder.model)
    for module in modules:
        layers = sorted(layers_of[module])
        if len(layers) > 1:
            raise UnsupportedModel(
                f"layers {' and '.join(map(str, layers))} share {names[module]}, so that both would be trained: give "
                "each a copy first (copy.deepcopy of the module)"
            )
        plain = require_plain(module, names[module])
        for name in ("weight", "bias"):
            _require_own(plain, name, names, owners)


def require_plain(module: Linear, name: str) -> PlainLinear:
    """Returns a module whose weight is stored as such.

    Raises:
        UnsupportedModel: the weight is quantised, or PEFT adapts the module. name: the module's, for the message.
    """
    if not is_plain_linear(module):
        raise UnsupportedModel(
            f"{name} is quantised or an adapter of PEFT, so that its weight is not stored as such: load floating-point "
            f"weights, or {MERGE}"
        )
    return module


def _require_own(
    module: PlainLinear, name: str, names: dict[nn.Module, str], owners: dict[tuple[torch.device, int], list[_Owned]]
) -> None:
    tensor: Tensor | None = getattr(module, name)
    if tensor is None:
        return
    is_parameter = module._parameters.get(name) is tensor
    if not is_parameter:
        raise UnsupportedModel(
            f"{names[module]} computes its {name} from other tensors, so that a trained {name} would be lost: make it "
            "a parameter first, with remove_parametrizations, remove_weight_norm or prune.remove of torch.nn.utils"
        )
    start, stop = _memory(tensor)
    for other_module, other_name, other in owners.get(_storage(tensor), []):
        other_start, other_stop = _memory(other)
        is_itself = other_module is module and other_name == name
        if not is_itself and start < other_stop and other_start < stop:
            raise UnsupportedModel(
                f"{names[module]} shares its {name} with {names[other_module]}.{other_name}, which would change too: "
                f"give it its own first, module.{name} = torch.nn.Parameter(module.{name}.detach().clone())"
            )


_Owned = tuple[nn.Module, str, Tensor]  # a module, the name of a parameter or buffer, and the tensor


def _tensors_by_memory(model: nn.Module) -> dict[tuple[torch.device, int], list[_Owned]]:
    """Returns the parameters and buffers of a model by their storage. Only tensors of one storage can overlap."""
    tensors: dict[tuple[torch.device, int], list[_Owned]] = {}
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) in (Tensor, nn.Parameter) and tensor.numel():
                tensors.setdefault(_storage(tensor), []).append((module, name, tensor))
    return tensors


def _storage(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Returns the first byte that the tensor uses in its storage, and the one after the last."""
    last = sum(int((size - 1) * stride) for size, stride in zip(tensor.shape, tensor.stride()))
    start = int(tensor.storage_offset()) * tensor.itemsize
    return start, start + (last + 1) * tensor.itemsize


def _layers_by_module(decoder: Decoder) -> dict[nn.Module, set[int]]:
    """Returns for each module the numbers of the layers that contain it."""
    layers: dict[nn.Module, set[int]] = {}
    for number, layer in enumerate(decoder.layer_modules()):
        for module in layer.modules():
            layers.setdefault(module, set()).add(number)
    return layers
