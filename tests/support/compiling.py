"""The ways in which user code compiles a model, or parts of it."""

from collections.abc import Callable

import torch
from torch import nn


def _compile_modules(select: Callable, **options) -> Callable:
    def compile_in_place(model):
        for module in select(model):
            module.compile(**options)
        return model

    return compile_in_place


def _compile_forwards(select: Callable, **options) -> Callable:
    def replace_forwards(model):
        for module in select(model):
            module.forward = torch.compile(module.forward, **options)
        return model

    return replace_forwards


def _wrap(select: Callable, **options) -> Callable:
    """Replaces modules by what torch.compile returns of them."""

    def wrap_modules(model):
        for module in select(model):
            name = next(name for name, other in model.named_modules() if other is module)
            parent, _, name = name.rpartition(".")
            model.get_submodule(parent).register_module(name, torch.compile(module, **options))
        return model

    return wrap_modules


def _layers(model) -> list[nn.Module]:
    return list(model.model.layers)


def _sublayers(model) -> list[nn.Module]:
    return [module for layer in model.model.layers for module in (layer.mlp, layer.self_attn)]


def _linears(model) -> list[nn.Module]:
    return [module for layer in model.model.layers for module in layer.modules() if isinstance(module, nn.Linear)]


def ways_to_compile(backend: str) -> dict[str, Callable]:
    """Returns {name: function}. The function compiles a Llama, and returns what the user calls from then on."""
    options = dict(backend=backend)
    return {
        "torch.compile(model)": lambda model: torch.compile(model, **options),
        "model.compile()": _compile_modules(lambda model: [model], **options),
        "layer.compile()": _compile_modules(_layers, **options),
        "mlp.compile()": _compile_modules(_sublayers, **options),
        "linear.compile()": _compile_modules(_linears, **options),
        "torch.compile(layer)": _wrap(_layers, **options),
        "torch.compile(mlp)": _wrap(_sublayers, **options),
        "torch.compile(linear)": _wrap(_linears, **options),
        "model.forward": _compile_forwards(lambda model: [model], **options),
        "layer.forward": _compile_forwards(_layers, **options),
        "mlp.forward": _compile_forwards(_sublayers, **options),
        "linear.forward": _compile_forwards(_linears, **options),
    }
