"""Keeps the state that a forward changes, such as the frequencies of a rotation that grows with the longest text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pymultiling.models.attached import own_attributes


class _State(NamedTuple):
    """A module with buffers: its attributes, its buffers, and copies of their values."""

    module: nn.Module
    attributes: dict[str, Any]
    buffers: dict[str, Tensor | None]
    values: list[tuple[Tensor, Tensor]]


@contextmanager
def restored_state(model: nn.Module) -> Iterator[None]:
    """On exit, modules with buffers have the attributes, buffers and values that they had."""
    states = []
    for module in model.modules():
        if module._buffers:
            buffers = dict(module._buffers)
            attributes = own_attributes(module)
            tensors = [value for value in (*buffers.values(), *attributes.values()) if isinstance(value, Tensor)]
            states.append(_State(module, attributes, buffers, [(tensor, tensor.clone()) for tensor in tensors]))
    try:
        yield
    finally:
        for state in states:
            _restore(state)


def _restore(state: _State) -> None:
    module = state.module
    for name in own_attributes(module).keys() - state.attributes.keys():
        del vars(module)[name]
    vars(module).update(state.attributes)
    module._buffers.clear()
    module._buffers.update(state.buffers)
    for tensor, value in state.values:
        # Writing would make a pending backward pass refuse a tensor that it has saved, so it is only done if needed.
        if not torch.equal(tensor, value):
            tensor.copy_(value)
