"""Tells in about a millisecond whether a model may compute something else than when it was verified."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pymultiling.models.adapters import adapter_state
from pymultiling.models.attention import PREFIX
from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.linear import device_of, dtype_of

_SIMPLE = (int, float, bool, str)


def fingerprint(decoder: Decoder) -> int:
    """Returns a number that changes with the model's structure, and not with its weights or with hooks of this package.

    It covers the classes of all modules, forwards of classes and of single modules, functions of their files that
    forwards of classes call, hooks, the attention implementation, dtypes, the configuration, the family, active
    adapters, and numbers and names that attentions and FFNs hold (window, scale). It does not see what modules read
    elsewhere, such as a variable of a hook.
    """
    parts: list[object] = [decoder.family, *_structure(decoder.base_model, None)]
    for layer in decoder.layers:
        attributes = tuple(layer.ffn.__dict__.items())
        if isinstance(layer, AttentionLayer):
            parts += [dtype_of(layer.q.module), device_of(layer.o)]
            attributes = (*tuple(layer.core.__dict__.items()), *attributes)
        parts += [value for name, value in attributes if type(value) in _SIMPLE and name != "training"]
    config = decoder.config
    settings = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    implementation = config._attn_implementation
    own = implementation and implementation.removeprefix(PREFIX)
    parts += [repr(settings), own, id(ALL_ATTENTION_FUNCTIONS.get(own))]
    return hash(tuple(parts))


def outer_fingerprint(decoder: Decoder) -> int:
    """Returns the same for what a model has around its base model."""
    return hash(tuple(_structure(decoder.model, decoder.base_model)))


def _structure(model: nn.Module, left_out: nn.Module | None) -> list[object]:
    """Returns the classes, forwards and hooks of all modules. left_out: a module that does not count."""
    parts: list[object] = []
    classes: set[type[nn.Module]] = set()
    modules: list[nn.Module] = [model]
    while modules:
        module = modules.pop()
        state = module.__dict__  # attributes of modules are slow
        classes.add(type(module))
        parts += [type(module), *adapter_state(module)]
        # The keys of hooks count up for all modules and are not used again.
        for hooks in (state["_forward_pre_hooks"], state["_forward_hooks"]):
            if hooks:
                # Copied, because another thread may add or remove hooks meanwhile.
                parts += [key for key, hook in tuple(hooks.items()) if not is_ours(hook)]
        forward = state.get("forward")
        if forward is not None and is_ours(forward):
            forward = getattr(forward, "__wrapped__", None)  # what the user has set; None if that is nothing
        if forward is not None and not _is_class_forward(module, forward) and not is_ours(forward):
            parts.append((id(forward), id(getattr(forward, "__code__", None))))
        modules += [child for child in state["_modules"].values() if child is not None and child is not left_out]
    functions = [function for kind in classes for function in (kind.forward, *_called_functions(kind.forward))]
    return [*parts, *sorted(id(function) for function in functions)]


def _called_functions(forward: Callable[..., Any]) -> list[FunctionType]:
    """Returns the functions of its file that a forward calls by their names, and those that they call in turn."""
    found: dict[FunctionType, None] = {}
    waiting = [inspect.unwrap(forward)]
    while waiting:
        function = waiting.pop()
        if not isinstance(function, FunctionType):
            continue
        for name in function.__code__.co_names:
            called = function.__globals__.get(name)
            if isinstance(called, FunctionType) and called not in found:
                found[called] = None
                if called.__globals__ is function.__globals__:
                    waiting.append(called)
    return list(found)


def is_ours(hook: Callable[..., Any]) -> bool:
    """Whether a hook or a forward belongs to this package."""
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith("pymultiling.")


def _is_class_forward(module: nn.Module, forward: object) -> bool:
    return getattr(forward, "__func__", None) is type(module).forward
