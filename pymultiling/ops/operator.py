"""The data classes of the registry: what an entry says about an operator, and how its functions are imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import TypeAlias, cast

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import KernelBackend
from pymultiling.ops.requirements import require_one_device

Argument: TypeAlias = Tensor | QKProblem | float | str | None  # float includes int and bool
Results: TypeAlias = Tensor | tuple[Tensor, ...] | None
OperatorFunction: TypeAlias = Callable[..., Results]


def supports_all(*arguments: Argument) -> None:
    """Returns None: the kernel supports all arguments."""


def unsupported_dtype(dtype: torch.dtype, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Returns why kernels for `dtypes` do not take `dtype`, or None if they do."""
    if dtype in dtypes:
        return None
    *first, last = (str(supported).removeprefix("torch.") for supported in dtypes)
    names = f"{', '.join(first)} and {last}" if first else last
    return f"its kernels take {names}, not {dtype}"


@dataclass(frozen=True, eq=False)
class Kernels:
    """What the kernels of a backend support.

    Attributes:
        device: the device type of the tensors ("cuda" for ROCm too).
        location: a sentence that says where the kernels run.
        dtypes: the supported dtypes of the operator's first tensor.
        unsupported: called with the arguments of the operator's reference; returns why the kernel does not support
            them, or None if it does.
    """

    device: str
    location: str
    dtypes: tuple[torch.dtype, ...]
    unsupported: Callable[..., str | None] = supports_all

    def device_mismatch(self, tensor: Tensor | None) -> str | None:
        """Returns why the kernels cannot run on the tensor's device, or None if they can."""
        if tensor is None or tensor.device.type == self.device:
            return None
        return f"{self.location}, the tensors are on {tensor.device}"

    def dtype_mismatch(self, tensor: Tensor | None) -> str | None:
        """Returns why the kernels do not take the tensor's dtype, or None if they do."""
        return None if tensor is None else unsupported_dtype(tensor.dtype, self.dtypes)


@dataclass(frozen=True, eq=False)
class Budget:
    """How far a kernel's result may be from the exact result (float64), value by value.

    The largest allowed error is twice the error of plain PyTorch in the same dtype, plus a floor. Errors are relative.

    Attributes:
        floor: the floor of every result and dtype that `result_floors` does not name.
        result_floors: {result: {dtype: floor}}.
        floor_factor: called with the arguments of the operator's reference; returns a factor of the floor. None: the
            factor is 1.
        equal_to_reference: names of the results that equal those of plain PyTorch bit for bit.
        is_estimate: whether the operator draws keys, so that rounding may change which keys are drawn. Results are only
            comparable where it does not. The tests of the operator select such inputs.
    """

    floor: float = 0.0
    result_floors: Mapping[str, Mapping[torch.dtype, float]] = field(default_factory=dict)
    floor_factor: Callable[..., float] | None = None
    equal_to_reference: tuple[str, ...] = ()
    is_estimate: bool = False


@dataclass(frozen=True, eq=False)
class Operator:
    """An entry of the registry.

    Attributes:
        name: name of the torch operator, `torch.ops.pymultiling.<name>`, and of its function in every module that has
            one.
        schema: arguments and results in torch's notation. The C++ extension declares the same schema with int for
            SymInt. A SymInt may change from call to call without a recompilation by torch.compile.
        fake: called with the schema's arguments; returns empty tensors with the shapes and dtypes of the results.
        results: names of the results, or of the overwritten arguments if the operator returns nothing.
        kernels: {backend: what its kernels support}. A backend that is missing here has no kernel for the operator.
        budget: largest allowed errors of all kernels. None if there is no kernel.
        shared_module: the name of the operator's modules (reference, Triton, ops) where it is not the operator's name.
        public_function: name of the function of pymultiling.ops that runs the operator, where it is not the
            operator's name.
        options: keyword arguments with which the public function runs this operator.
        result_type: name of the NamedTuple that the public function returns, in the public function's module.
        arguments_type: NamedTuple of all arguments, which the Python functions take as one argument. None: they take
            the arguments one by one.
        mutates: names of the arguments that are written into.
        check: called with the arguments of the operator's reference before any implementation runs; raises ValueError
            unless their shapes, dtypes and numbers fit.
        check_values: the same for values of tensors, on the CPU; raises ValueError or IndexError. None: all values fit.
        slow_to_compile: whether Triton takes seconds to compile one of its kernels.
    """

    name: str
    schema: str
    fake: Callable[..., Results]
    results: tuple[str, ...]
    kernels: Mapping[KernelBackend, Kernels]
    budget: Budget | None
    check: Callable[..., None]
    shared_module: str = ""
    public_function: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    result_type: str | None = None
    arguments_type: type[QKProblem] | None = None
    mutates: tuple[str, ...] = ()
    check_values: Callable[..., None] | None = None
    slow_to_compile: bool = False

    @property
    def module_name(self) -> str:
        """Name of the three modules of the operator: reference, Triton kernel, and public function."""
        return self.shared_module or self.name

    @property
    def title(self) -> str:
        """Name in tables: the operator's name, or for a function with modes its name and the mode."""
        return f"{self.public_function or self.name}, {self.options['mode']}" if "mode" in self.options else self.name

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """Names of the arguments in the schema's order."""
        parsed = torch._C.parse_schema(self.name + self.schema)
        return tuple(argument.name for argument in parsed.arguments)

    def reference(self) -> OperatorFunction:
        """Returns the function that computes the operator in plain PyTorch."""
        module = import_module(f"pymultiling.ops.reference.{self.module_name}")
        return cast(OperatorFunction, getattr(module, self.name))

    def triton_module(self) -> ModuleType:
        """Imports the module of its Triton kernel; raises ImportError where triton cannot be imported."""
        return import_module(f"pymultiling.triton_kernels.{self.module_name}")

    @cached_property
    def launcher(self) -> OperatorFunction:
        """The function that launches its Triton kernel; raises ImportError where triton cannot be imported."""
        return cast(OperatorFunction, getattr(self.triton_module(), self.name))

    def first_tensor(self, arguments: tuple[Argument, ...]) -> Tensor:
        """Returns the tensor whose device and dtype select the backend."""
        first = arguments[0] if self.arguments_type is None else cast(QKProblem, arguments[0]).q
        return cast(Tensor, first)

    def require_fitting(self, arguments: tuple[Argument, ...]) -> None:
        """Raises ValueError unless the arguments of the Python functions fit the operator and are on one device."""
        require_one_device(self.argument_names, self.schema_arguments(arguments))
        self.check(*arguments)

    def schema_arguments(self, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """Converts the arguments of the Python functions into those of the schema."""
        return arguments if self.arguments_type is None else tuple(cast(QKProblem, arguments[0]))

    def python_arguments(self, arguments: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """Converts the arguments of the schema into those of the Python functions.

        torch leaves out the last arguments where they have their default.
        """
        return (
            arguments
            if self.arguments_type is None
            else (cast(Callable[..., QKProblem], self.arguments_type)(*arguments),)
        )
