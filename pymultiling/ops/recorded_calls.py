"""Records with which arguments the operators are called, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pymultiling.ops.arguments import Backend
from pymultiling.ops.dispatch import TORCH_OPERATORS, why_unsupported
from pymultiling.ops.operator import Argument
from pymultiling.ops.registry import KERNELS, OPERATORS


class OperatorCall(NamedTuple):
    """A call of an operator.

    Attributes:
        name: the operator's name in the registry.
        arguments: the arguments of its schema.
    """

    name: str
    arguments: tuple[Argument, ...]

    @property
    def size(self) -> int:
        """The numbers in its tensors."""
        return sum(x.numel() for x in self.arguments if isinstance(x, Tensor))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its first tensor."""
        return tuple(next(x for x in self.arguments if isinstance(x, Tensor)).shape)

    def backends(self) -> list[Backend]:
        """Returns the backends that can run it here, plain PyTorch last."""
        operator = OPERATORS[self.name]
        arguments = operator.python_arguments(self.arguments)
        return [*(name for name in KERNELS if why_unsupported(operator, name, arguments) is None), "torch"]

    def run(self, backend: Backend) -> object:
        """Runs the operator."""
        return TORCH_OPERATORS[self.name](*self.arguments, backend=backend)


class RecordedCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps, inside its block, the largest call of every operator.

    Attributes:
        largest: {name: call}. Tensors that the operator overwrites are copies.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest: dict[str, OperatorCall] = {}

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Keeps the call if it is the largest so far, and runs it."""
        name = func._opname
        if func.namespace == "pymultiling" and name in OPERATORS:
            call = OperatorCall(name, args)
            if name not in self.largest or call.size > self.largest[name].size:
                if OPERATORS[name].mutates:
                    call = OperatorCall(name, tuple(x.clone() if isinstance(x, Tensor) else x for x in args))
                self.largest[name] = call
        run: Callable[..., object] = func
        return run(*args, **(kwargs or {}))
