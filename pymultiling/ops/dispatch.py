"""Decides which code runs an operator.

This is a Triton kernel on a GPU, a C++ kernel on the CPU, or the plain PyTorch reference where neither can run.
Kernels in CUDA C++ only run with backend="cuda". Every operator of the registry is a torch custom operator,
`torch.ops.pymultiling.<name>`, that works under torch.compile and autograd. Where nothing of the kind watches, the
implementation is called directly, which takes the host less time (direct_calls.py). The keyword `backend` names the
backend that runs, by default the fastest that can.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from pymultiling.errors import BackendUnavailable
from pymultiling.ops.arguments import Backend, KernelBackend
from pymultiling.ops.backends import require_backend, unavailable, why_unavailable
from pymultiling.ops.direct_calls import nothing_watches
from pymultiling.ops.operator import Argument, Operator, OperatorFunction, Results
from pymultiling.ops.registry import KERNELS, NO_KERNEL, OPERATORS
from pymultiling.runtime.autocast import without_autocast

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

# {device type: backend}. ROCm's device type is "cuda" too.
FASTEST: dict[str, KernelBackend] = {"cpu": "cpp", "cuda": "triton"}


def call(name: str, *arguments: Argument, backend: Backend = "auto") -> Tensor:
    """Runs an operator that has one result.

    Args:
        name: the operator's name in the registry.
        *arguments: the arguments of its reference.
        backend: "auto" for the fastest that can run, or the backend to run.

    Returns:
        The result.

    Raises:
        BackendUnavailable: `backend` was named and cannot run these arguments.
        ValueError: there is no such backend, or no kernel supports the arguments' values.
    """
    return cast(Tensor, _call(name, arguments, backend))


def call_tuple(name: str, *arguments: Argument, backend: Backend = "auto") -> tuple[Tensor, ...]:
    """Runs an operator that has several results.

    Args:
        name: the operator's name in the registry.
        *arguments: the arguments of its reference.
        backend: "auto" for the fastest that can run, or the backend to run.

    Returns:
        The results.

    Raises:
        BackendUnavailable: `backend` was named and cannot run these arguments.
        ValueError: there is no such backend, or no kernel supports the arguments' values.
    """
    return cast(tuple[Tensor, ...], _call(name, arguments, backend))


def call_in_place(name: str, *arguments: Argument, backend: Backend = "auto") -> None:
    """Runs an operator that writes into its arguments and returns nothing.

    Args:
        name: the operator's name in the registry.
        *arguments: the arguments of its reference.
        backend: "auto" for the fastest that can run, or the backend to run.

    Raises:
        BackendUnavailable: `backend` was named and cannot run these arguments.
        ValueError: there is no such backend, or no kernel supports the arguments' values.
    """
    _call(name, arguments, backend)


def select_implementation(name: str, arguments: tuple[Argument, ...], backend: Backend = "auto") -> OperatorFunction:
    """Returns the function that runs an operator on the given arguments.

    Args:
        name: the operator's name in the registry.
        arguments: the arguments of its reference.
        backend: "auto" for the fastest that can run, or the backend to run.

    Returns:
        A function that takes the arguments of the operator's reference.

    Raises:
        BackendUnavailable: `backend` was named and cannot run these arguments.
        ValueError: there is no such backend.
    """
    operator = OPERATORS[name]
    tensor = operator.first_tensor(arguments)
    require_backend(backend)
    selected: Literal[KernelBackend, "torch"]
    selected = FASTEST.get(tensor.device.type, "torch") if backend == "auto" else backend
    if selected == "torch":
        return REFERENCES[name]
    reason = why_unsupported(operator, selected, arguments)
    if reason is None:
        return _kernel_function(operator, selected, tensor)
    if backend != "auto":
        raise BackendUnavailable(f'backend="{backend}" cannot run {name}: {reason}; backend="torch" always can')
    if selected in operator.kernels and unavailable(selected) is not None:  # the installation lacks something
        _warn_once(reason)
    return REFERENCES[name]


def why_unsupported(operator: Operator, backend: KernelBackend, arguments: tuple[Argument, ...]) -> str | None:
    """Returns why a backend cannot run an operator on these arguments, or None if it can."""
    kernels = operator.kernels.get(backend)
    # If the operator has no kernel, a backend that cannot run anything here is still the reason to name first.
    reason = why_unavailable(backend, kernels or KERNELS[backend], operator.first_tensor(arguments))
    if reason is not None:
        return reason
    if kernels is None or (backend != "triton" and _extension_function(operator, backend) is None):
        return NO_KERNEL
    return kernels.unsupported(*arguments)


def _call(name: str, arguments: tuple[Argument, ...], backend: Backend) -> Results:
    """Runs an operator with the arguments of its reference.

    It calls the torch operator if torch.compile, autograd or something else watches the call. Plain PyTorch that is
    asked for by name runs without it, unless torch.compile traces it: torch.func and forward derivatives support plain
    PyTorch, but no custom operator.
    """
    operator = OPERATORS[name]
    if backend == "torch" and not torch.compiler.is_compiling():
        return _run(operator, arguments, backend)
    if not operator.mutates and nothing_watches(operator.schema_arguments(arguments)):
        return _run(operator, arguments, backend)
    return call_torch_operator(name, arguments, backend)


def call_torch_operator(name: str, arguments: tuple[Argument, ...], backend: Backend = "auto") -> Results:
    """Calls torch.ops.pymultiling.<name> with the arguments of its reference."""
    results: Results = TORCH_OPERATORS[name](*OPERATORS[name].schema_arguments(arguments), backend=backend)
    return results


def _run(operator: Operator, arguments: tuple[Argument, ...], backend: Backend = "auto") -> Results:
    """Checks the arguments, and runs the implementation that dispatch selects, without autocast.

    Autocast would round the factors of matrix products.
    """
    operator.require_fitting(arguments)
    if operator.check_values is not None:
        operator.check_values(*arguments)
    implementation = select_implementation(operator.name, arguments, backend)
    with without_autocast(operator.first_tensor(arguments).device.type):
        return implementation(*arguments)


def _kernel_function(operator: Operator, backend: KernelBackend, tensor: Tensor) -> OperatorFunction:
    """Returns the function that runs a backend's kernel on the tensor's device. It takes the reference's arguments."""
    if backend == "triton":
        return functools.partial(_launch_on_device_of, tensor, operator.launcher)
    function = _extension_function(operator, backend)
    assert function is not None, "why_unsupported has looked it up"
    return function if operator.arguments_type is None else functools.partial(_call_unpacked, function)


def _extension_function(operator: Operator, backend: KernelBackend) -> OperatorFunction | None:
    """Returns the operator of an extension, or None if the extension is of an older version that lacks it."""
    extension = torch.ops.pymultiling_cpp if backend == "cpp" else torch.ops.pymultiling_cuda
    return getattr(extension, operator.name, None)


def _call_unpacked(function: OperatorFunction, problem: tuple[Argument, ...]) -> Results:
    """Calls an operator of an extension with the fields of the NamedTuple that the reference takes."""
    return function(*problem)


def _launch_on_device_of(tensor: Tensor, launch: OperatorFunction, *arguments: Argument) -> Results:
    """Launches a Triton kernel on the tensor's device. Triton uses the current device, which may be another one."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return launch(*arguments)
    with torch.cuda.device(tensor.device):
        return launch(*arguments)


@functools.cache
def _warn_once(reason: str) -> None:
    """Warns that plain PyTorch runs. The cache makes every reason appear once."""
    warnings.warn(f"pymultiling runs on plain PyTorch, which is much slower here: {reason}", stacklevel=3)


def _torch_operator(operator: Operator) -> CustomOpDef:
    """Defines torch.ops.pymultiling.<name>.

    It takes the arguments of the operator's schema and `backend`, by keyword, which is "auto" by default. A backend
    that is asked for by name so runs under torch.compile and autograd as "auto" does.
    """

    def run(*arguments: Argument, backend: Backend = "auto") -> Results:
        return _run(operator, operator.python_arguments(arguments), backend)

    def fake(*arguments: Argument, backend: Backend = "auto") -> Results:
        # torch calls this also if one tensor alone is on "meta", and would return the result's uninitialised memory.
        operator.require_fitting(operator.python_arguments(arguments))
        return operator.fake(*arguments)

    name = f"pymultiling::{operator.name}"
    schema = operator.schema.replace(") -> ", ', *, str backend="auto") -> ')
    defined: CustomOpDef = torch.library.custom_op(name, run, mutates_args=operator.mutates, schema=schema)
    defined.register_fake(fake)
    return defined


REFERENCES = {name: operator.reference() for name, operator in OPERATORS.items()}
TORCH_OPERATORS = {name: _torch_operator(operator) for name, operator in OPERATORS.items()}
