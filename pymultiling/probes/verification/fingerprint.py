"""Tells in about a millisecond whether a model may compute something else than when it was verified."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pymultiling.models.attention import PREFIX
from pymultiling.models.decoder import Decoder

_SIMPLE = (int, float, bool, str)


def fingerprint(decoder: Decoder) -> int:
    """Returns a number that changes with the model's structure, and not with its weights or with hooks of this package.

    It covers the classes of all modules, forwards of classes and of single modules, hooks, the attention
    implementation, dtypes, the configuration, the family, and numbers and names that attention modules hold (window,
    scale). It does not see what modules read elsewhere, such as a function of their file that is replaced.
    """
    parts: list[object] = [decoder.family]
    classes: set[type[nn.Module]] = set()
    modules: list[nn.Module] = [decoder.base_model]
    while modules:
        module = modules.pop()
        state = module.__dict__  # attributes of modules are slow
        classes.add(type(module))
        parts.append(type(module))
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
        modules += [child for child in state["_modules"].values() if child is not None]
    parts += sorted(id(kind.forward) for kind in classes)
    for layer in decoder.layers:
        parts += [layer.q.module.weight.dtype, layer.o.weight.device]
        attributes = tuple(layer.attention.__dict__.items())
        parts += [value for name, value in attributes if type(value) in _SIMPLE and name != "training"]
    config = decoder.config
    settings = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    implementation = config._attn_implementation
    parts += [repr(settings), implementation and implementation.removeprefix(PREFIX)]
    return hash(tuple(parts))


def is_ours(hook: Callable[..., Any]) -> bool:
    """Whether a hook or a forward belongs to this package."""
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith("pymultiling.")


def _is_class_forward(module: nn.Module, forward: object) -> bool:
    return getattr(forward, "__func__", None) is type(module).forward
