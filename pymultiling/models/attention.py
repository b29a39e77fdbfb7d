"""Captures the rotated queries and keys of attention layers through transformers' attention interface.

The model's own implementation still computes the attention. A registered function calls the listeners and then
delegates to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pymultiling.errors import UnsupportedModel
from pymultiling.models.pretrained import pretrained

PREFIX = "pymultiling_"
DELEGATES = ("eager", "sdpa", "flex_attention")

# listener(query, key, arguments): query (B, H, l, d) and key (B, K, l, d) are rotated; arguments are the keyword
# arguments of the attention (scaling, sliding_window, softcap, ...).
AttentionListener: TypeAlias = Callable[[Tensor, Tensor, dict[str, Any]], None]

_listeners: WeakKeyDictionary[nn.Module, list[AttentionListener]] = WeakKeyDictionary()


@contextmanager
def listen_to_attention(model: nn.Module, listeners: Mapping[nn.Module, AttentionListener]) -> Iterator[None]:
    """Inside, each listener is called before its attention module computes the attention.

    Raises:
        UnsupportedModel: the model's attention implementation has no function to delegate to.
    """
    decoder = pretrained(model)
    implementation = decoder.config._attn_implementation
    if implementation is None or implementation.removeprefix(PREFIX) not in DELEGATES:
        raise UnsupportedModel(
            f"the attention implementation {implementation!r} does not give access to queries and keys: call "
            "model.set_attn_implementation('sdpa') first ('eager' for soft-capped scores)"
        )
    for module, listener in listeners.items():
        _listeners.setdefault(module, []).append(listener)
    try:
        decoder.set_attn_implementation(_register(implementation.removeprefix(PREFIX)))
        yield
    finally:
        decoder.set_attn_implementation(implementation)
        for module, listener in listeners.items():
            _listeners[module].remove(listener)


def _register(implementation: str) -> str:
    """Registers an attention function that calls the listeners and then `implementation`; returns its name."""
    name = PREFIX + implementation

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, Tensor | None]:
        for listener in _listeners.get(module, ()):
            listener(query, key, arguments)
        if implementation == "eager":  # transformers defines it in each model's own file
            run = _eager_attention(type(module))
        else:
            run = ALL_ATTENTION_FUNCTIONS[implementation]
        output: tuple[Tensor, Tensor | None] = run(module, query, key, value, attention_mask, **arguments)
        return output

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def _eager_attention(attention: type[nn.Module]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Returns the eager attention of the file that defines a class of attention, or the class that it inherits from.

    Raises:
        UnsupportedModel: none of these files has one.
    """
    for base in attention.__mro__:
        function: Callable[..., tuple[Tensor, Tensor | None]] | None = getattr(
            sys.modules.get(base.__module__), "eager_attention_forward", None
        )
        if function is not None:
            return function
    raise UnsupportedModel(
        f"no file that defines {attention.__name__} has an eager_attention_forward: call "
        "model.set_attn_implementation('sdpa') first"
    )
