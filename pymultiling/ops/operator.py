"""What a row of the registry says of an operator, and how its functions are found: by name, imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor


def takes_all(*arguments) -> None:
    """No kernel-specific refusal."""


def not_among(dtype: torch.dtype, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why a dtype is not for kernels of these dtypes; None where it is one of them."""
    if dtype in dtypes:
        return None
    *most, last = (str(one).removeprefix("torch.") for one in dtypes)
    taken = f"{', '.join(most)} and {last}" if most else last
    return f"its kernels take {taken}, not {dtype}"


@dataclass(frozen=True, eq=False)
class Kernels:
    """What a backend's kernels take.

    Attributes:
        device: the type of device of the tensors ("cuda" for ROCm too).
        where: where the kernels run, the beginning of a sentence.
        dtypes: of the operator's first tensor.
        refusal: called with the operator's arguments; says in words why they are not for the kernel, None where they are.
    """

    device: str
    where: str
    dtypes: tuple[torch.dtype, ...]
    refusal: Callable[..., str | None] = takes_all

    def wrong_device(self, tensor: Tensor | None) -> str | None:
        if tensor is None or tensor.device.type == self.device:
            return None
        return f"{self.where}, the tensors are on {tensor.device}"

    def wrong_dtype(self, tensor: Tensor | None) -> str | None:
        return None if tensor is None else not_among(tensor.dtype, self.dtypes)


@dataclass(frozen=True, eq=False)
class Budget:
    """How far a kernel's result may be from the exact one (float64), value by value.

    Twice as far as plain PyTorch in the same dtype is, plus a floor. Errors are relative.

    Attributes:
        floor: of every result that `floors` does not name.
        floors: {result: {dtype: floor}}.
        times: called with the operator's arguments; by what the floor is multiplied. None: 1.
        exact: results that have plain PyTorch's bits.
        is_estimate: only comparable where rounding does not move a draw, which its own tests see to.
    """

    floor: float = 0.0
    floors: Mapping[str, Mapping[torch.dtype, float]] = field(default_factory=dict)
    times: Callable[..., float] | None = None
    exact: tuple[str, ...] = ()
    is_estimate: bool = False


@dataclass(frozen=True, eq=False)
class Operator:
    """A row of the registry.

    Attributes:
        name: of the torch operator, `torch.ops.pymultiling.<name>`, and of the function in every file that has one.
        schema: arguments and results as torch writes them; the C++ extension declares the same, with int for SymInt. A SymInt may
            change from call to call without a recompilation by torch.compile.
        fake: shapes and dtypes of the results, from the schema's arguments.
        results: names of the results, of what is overwritten where nothing is returned.
        kernels: {backend: what its kernels take}; a backend that is not there has no such kernel.
        budget: of every kernel's errors; None where there is no kernel.
        home: name of the operator's files (reference, Triton, ops) where it is not the operator's.
        public_function: the function of pymultiling.ops that reaches it, where that is another operator's.
        options: with which keyword arguments the public function reaches it.
        named: the NamedTuple that the public function returns, from the public function's file.
        arguments_type: the NamedTuple of all arguments, which Python's functions take whole. None: they take them one by one.
        mutates: arguments that are written into.
        check: called with the arguments before any kernel runs; raises ValueError for values that no kernel can take.
        heavy: whether Triton takes seconds to compile a kernel of it.
    """

    name: str
    schema: str
    fake: Callable
    results: tuple[str, ...]
    kernels: Mapping[str, Kernels]
    budget: Budget | None
    home: str = ""
    public_function: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    named: str | None = None
    arguments_type: type | None = None
    mutates: tuple[str, ...] = ()
    check: Callable[..., None] | None = None
    heavy: bool = False

    @property
    def module_name(self) -> str:
        """Of its reference, of its Triton kernel, and in pymultiling.ops; without an ending."""
        return self.home or self.name

    @property
    def title(self) -> str:
        """In tables: the public function's name with its mode, where it has modes."""
        return f"{self.public_function or self.name}, {self.options['mode']}" if "mode" in self.options else self.name

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """In the schema's order."""
        parsed = torch._C.parse_schema(self.name + self.schema)
        return tuple(argument.name for argument in parsed.arguments)

    def reference(self) -> Callable:
        """The function that is the operator in plain PyTorch."""
        return getattr(import_module(f"pymultiling.ops.reference.{self.module_name}"), self.name)

    def triton_module(self) -> ModuleType:
        """ImportError where triton cannot be imported."""
        return import_module(f"pymultiling.triton_kernels.{self.module_name}")

    def launcher(self) -> Callable:
        """The function that launches the Triton kernel."""
        return getattr(self.triton_module(), self.name)

    def first_tensor(self, arguments: tuple) -> Tensor:
        return arguments[0] if self.arguments_type is None else arguments[0][0]

    def schema_arguments(self, arguments: tuple) -> tuple:
        """The schema's arguments, from those of Python's functions."""
        return arguments if self.arguments_type is None else tuple(arguments[0])

    def python_arguments(self, arguments: tuple) -> tuple:
        """The arguments of Python's functions, from the schema's."""
        return arguments if self.arguments_type is None else (self.arguments_type(*arguments),)
