"""Recomputes activations for gradients with what was on in the forward, also after the block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from pymultiling.models.attached import replace
from pymultiling.models.blocks import Block, blocks_on, with_blocks

# transformers sets it where gradient checkpointing is enabled. It calls the function that it gets, and calls it again
# in the backward pass.
_CHECKPOINT = "_gradient_checkpointing_func"


def remember_blocks(block: Block, layers: Iterable[nn.Module]) -> None:
    """Until the block ends, layers with gradient checkpointing remember for the backward pass which blocks are on."""
    for layer in layers:
        if hasattr(layer, _CHECKPOINT):
            replace(block, layer, _CHECKPOINT, None, _checkpoint)


def _checkpoint(
    module: nn.Module,
    checkpoint: Callable[..., Any],
    _: Sequence[None],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if torch.compiler.is_compiling():  # the compiled backward pass recomputes what was traced
        return checkpoint(*args, **kwargs)
    function, *inputs = args
    return checkpoint(with_blocks(blocks_on(module), function), *inputs, **kwargs)
