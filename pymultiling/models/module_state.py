"""What a module holds itself, kept to be restored after something has changed it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pymultiling.models.attached import own_attributes


class ModuleState(NamedTuple):
    """What a module holds itself, without its children.

    Attributes:
        module: the module.
        attributes: its attributes, such as `merged`, except those in which torch keeps hooks and children, and those
            that blocks have attached.
        parameters: its parameters; None: they are not restored.
        buffers: its buffers.
        values: for every parameter, buffer, and attribute that is a tensor, the memory that it uses, and a copy of the
            values there. Tensors with several elements in one place are left out: torch refuses to write into them.
    """

    module: nn.Module
    attributes: dict[str, Any]
    parameters: dict[str, nn.Parameter | None] | None
    buffers: dict[str, Tensor | None]
    values: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def of(cls, module: nn.Module, with_parameters: bool = False) -> ModuleState:
        attributes, buffers = own_attributes(module), dict(module._buffers)
        parameters = dict(module._parameters) if with_parameters else None
        held = (*attributes.values(), *buffers.values(), *(parameters or {}).values())
        tensors = [tensor for tensor in held if isinstance(tensor, Tensor) and not _is_expanded(tensor)]
        values = [(tensor, tensor.data, tensor.data.clone()) for tensor in tensors]
        return cls(module, attributes, parameters, buffers, values)

    @torch.no_grad()
    def restore(self) -> None:
        """Makes the module what it was. Attributes that it did not have are removed."""
        for name in own_attributes(self.module).keys() - self.attributes.keys():
            del vars(self.module)[name]
        vars(self.module).update(self.attributes)
        for held, now in ((self.parameters, self.module._parameters), (self.buffers, self.module._buffers)):
            if held is not None:
                now.clear()
                now.update(held)  # type: ignore[arg-type]
        # Through .data, so that a backward pass may still use tensors that an earlier forward has saved.
        for tensor, memory, values in self.values:
            tensor.data = memory
            memory.copy_(values)


def _is_expanded(tensor: Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))


@contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """On exit, modules with buffers have the attributes, buffers and values that they had.

    A forward changes such state, for example the frequencies of a rotation that grows with the longest text.
    """
    states = [ModuleState.of(module) for module in model.modules() if module._buffers]
    try:
        yield
    finally:
        for state in states:
            state.restore()
