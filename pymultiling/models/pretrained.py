"""Types for attributes that torch.nn.Module does not declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pretrained(model: nn.Module) -> PreTrainedModel:
    """Returns the model itself, typed as a Hugging Face model.

    A compiled model is no instance of PreTrainedModel, but has its attributes: therefore nothing is checked.
    """
    return cast("PreTrainedModel", model)


def uncompiled(module: nn.Module) -> nn.Module:
    """Returns the module inside of what torch.compile returns; any other module as it is.

    The attribute is not asked for, because wrappers of PEFT give those of the modules inside.
    """
    return module._modules.get("_orig_mod") or module


def class_name(model: nn.Module) -> str:
    """Returns the name of a model's class, for messages."""
    return type(uncompiled(model)).__name__


def tensor_attribute(module: nn.Module, name: str) -> Tensor:
    """Returns a parameter or buffer of a module, typed as a tensor."""
    return cast("Tensor", getattr(module, name))
