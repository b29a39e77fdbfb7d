"""Seeing the rotated queries and keys of every attention layer, through transformers' attention interface.

The model's own implementation computes the attention: a registered function tells the listener and delegates.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pymultiling.errors import UnsupportedModel

PREFIX = "pymultiling_"
DELEGATES = ("eager", "sdpa", "flex_attention")

_listeners: WeakKeyDictionary[nn.Module, list[Callable]] = WeakKeyDictionary()


@contextmanager
def listening(model: nn.Module, listeners: dict[nn.Module, Callable]) -> Iterator[None]:
    """Inside, listeners[attention module](query, key, arguments) is called before that module's attention.

    query (B, H, l, d) and key (B, K, l, d) are rotated; arguments are the keywords that the model passes
    (scaling, sliding_window, softcap, ...).
    """
    own = model.config._attn_implementation
    if own.removeprefix(PREFIX) not in DELEGATES:
        raise UnsupportedModel(
            f"queries and keys cannot be seen through the attention implementation {own!r}: call "
            "model.set_attn_implementation('sdpa') first ('eager' for soft-capped scores)"
        )
    for module, listener in listeners.items():
        _listeners.setdefault(module, []).append(listener)
    try:
        model.set_attn_implementation(_register(own.removeprefix(PREFIX)))
        yield
    finally:
        model.set_attn_implementation(own)
        for module, listener in listeners.items():
            _listeners[module].remove(listener)


def _register(own: str) -> str:
    name = PREFIX + own

    def attend(module, query, key, value, attention_mask, **arguments):
        for listener in _listeners.get(module, ()):
            listener(query, key, arguments)
        if own == "eager":  # transformers keeps it in each model's own file
            run = sys.modules[type(module).__module__].eager_attention_forward
        else:
            run = ALL_ATTENTION_FUNCTIONS[own]
        return run(module, query, key, value, attention_mask, **arguments)

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[own])
    return name
