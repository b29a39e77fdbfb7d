"""Captures the rotated queries and keys of attention layers through transformers' attention interface.

The model's own implementation still computes the attention. A registered function calls the listeners and then
delegates to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pymultiling.errors import UnsupportedModel
from pymultiling.models.blocks import Block, Switch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PREFIX = "pymultiling_"
DELEGATES = ("eager", "sdpa", "flex_attention")

# listener(query, key, value, arguments): query (B, H, l, d) and key (B, K, l, d) are rotated, value is (B, K, l, d);
# arguments are the keyword arguments of the attention (scaling, sliding_window, softcap, ...).
AttentionListener: TypeAlias = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], None]


@dataclass
class _Swap:
    """That the attention implementation of a model has been replaced.

    Attributes:
        implementation: the model's own.
        blocks: how many blocks listen to the model.
    """

    implementation: str
    blocks: int


# By attention module, the listeners of all blocks; replaced as a whole, because other threads read it in a forward.
_listeners: dict[nn.Module, tuple[tuple[Switch, AttentionListener], ...]] = {}
_swaps: dict[int, _Swap] = {}  # by the id of the model's configuration, which models share with their base model


def listen_to_attention(
    block: Block, config: PreTrainedConfig, listeners: Mapping[nn.Module, AttentionListener]
) -> None:
    """Until the block ends, each listener is called before its attention module computes the attention.

    It is called where the block is on. Meanwhile the model has another attention implementation, for all threads, which
    computes the same bit for bit. After the last block it has its own again. If `set_attn_implementation` is called
    meanwhile, this implementation stays, and blocks that are on hear no attention any more.

    Args:
        block: the block.
        config: the configuration of the model whose attention modules these are.
        listeners: {attention module: listener}.

    Raises:
        UnsupportedModel: the model's attention implementation has no function to delegate to.
    """
    switch = block.switch

    def attach() -> Callable[[], None]:
        swap = _swap_implementation(config)
        for module, listener in listeners.items():
            _listeners[module] = (*_listeners.get(module, ()), (switch, listener))

        def remove() -> None:
            for module in listeners:
                kept = tuple(entry for entry in _listeners[module] if entry[0] is not switch)
                if kept:
                    _listeners[module] = kept
                else:
                    del _listeners[module]
            _restore_implementation(config, swap)

        return remove

    block.attach(attach)


def _swap_implementation(config: PreTrainedConfig) -> _Swap:
    implementation = config._attn_implementation
    if implementation is None or implementation.removeprefix(PREFIX) not in DELEGATES:
        raise UnsupportedModel(
            f"the attention implementation {implementation!r} does not give access to queries and keys: call "
            "model.set_attn_implementation('sdpa') first ('eager' for soft-capped scores)"
        )
    own = implementation.removeprefix(PREFIX)
    name = _register(own)
    if implementation != name:
        # As transformers' set_attn_implementation does, which also looks at all modules and so takes a millisecond.
        config._attn_implementation = name
    swap = _swaps.setdefault(id(config), _Swap(own, 0))
    swap.implementation = own
    swap.blocks += 1
    return swap


def _restore_implementation(config: PreTrainedConfig, swap: _Swap) -> None:
    swap.blocks -= 1
    if swap.blocks:
        return
    del _swaps[id(config)]
    if config._attn_implementation == PREFIX + swap.implementation:
        config._attn_implementation = swap.implementation


def _register(implementation: str) -> str:
    """Registers an attention function that calls the listeners and then `implementation`; returns its name."""
    name = PREFIX + implementation
    if name in ALL_ATTENTION_FUNCTIONS:
        return name

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, Tensor | None]:
        _call_listeners(module, query, key, value, arguments)
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


def _call_listeners(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, arguments: dict[str, Any]) -> None:
    for switch, listener in _listeners.get(module, ()):
        if switch.is_on(module):
            listener(query, key, value, arguments)
