"""Which code runs an operator: Triton kernels on a GPU, C++ kernels on the CPU, the plain PyTorch reference everywhere else.

Kernels in CUDA C++ run where they are asked for by name. Every operator of the registry is a torch custom operator,
`torch.ops.pymultiling.<name>`, which torch.compile and autograd know, and which takes the fastest that can run.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from pymultiling.errors import BackendUnavailable
from pymultiling.ops.backends import require_backend, unavailable, why_unavailable
from pymultiling.ops.operator import Operator
from pymultiling.ops.registry import KERNELS, NO_KERNEL, OPERATORS

FASTEST = {"cpu": "cpp", "cuda": "triton"}  # {type of device: backend}; ROCm's devices are "cuda" too


def call(name: str, *arguments, backend: str = "auto"):
    """What an operator gives for the arguments that its reference takes.

    Raises:
        BackendUnavailable: `backend` was forced and cannot run them; says why.
        ValueError: no such backend, or values that no kernel can take.
    """
    operator = OPERATORS[name]
    if backend == "auto":
        return TORCH_OPERATORS[name](*operator.schema_arguments(arguments))
    return _run(operator, arguments, backend)


def select_implementation(name: str, arguments: tuple, backend: str = "auto") -> Callable:
    """The function that runs an operator on such arguments, as its reference takes them.

    Raises:
        BackendUnavailable: `backend` was forced and cannot run them; says why.
        ValueError: no such backend.
    """
    operator = OPERATORS[name]
    tensor = operator.first_tensor(arguments)
    require_backend(backend)
    chosen = FASTEST.get(tensor.device.type, "torch") if backend == "auto" else backend
    if chosen == "torch":
        return REFERENCES[name]
    reason = refusal(operator, chosen, arguments)
    if reason is None:
        return _kernel(operator, chosen, tensor)
    if backend != "auto":
        raise BackendUnavailable(f'backend="{backend}" cannot run {name}: {reason}; backend="torch" always can')
    if chosen in operator.kernels and unavailable(chosen) is not None:
        _warn_once(reason)
    return REFERENCES[name]


def refusal(operator: Operator, backend: str, arguments: tuple) -> str | None:
    """Why a backend other than plain PyTorch cannot run an operator on these arguments; None where it can."""
    kernels = operator.kernels.get(backend)
    reason = why_unavailable(backend, kernels or KERNELS[backend], operator.first_tensor(arguments))
    if reason is not None:
        return reason
    if kernels is None or (backend != "triton" and _compiled(operator, backend) is None):
        return NO_KERNEL
    return kernels.refusal(*arguments)


def _run(operator: Operator, arguments: tuple, backend: str = "auto"):
    function = select_implementation(operator.name, arguments, backend)
    if operator.check is not None:
        operator.check(*arguments)
    return function(*arguments)


def _kernel(operator: Operator, backend: str, tensor: Tensor) -> Callable:
    if backend == "triton":
        return functools.partial(_on_device_of, tensor, operator.launcher())
    function = _compiled(operator, backend)
    return function if operator.arguments_type is None else functools.partial(_spelled_out, function)


def _compiled(operator: Operator, backend: str) -> Callable | None:
    """The operator of an extension; None where that is of an older version, which lacks it."""
    extension = torch.ops.pymultiling_cpp if backend == "cpp" else torch.ops.pymultiling_cuda
    return getattr(extension, operator.name, None)


def _spelled_out(function: Callable, problem: tuple):
    return function(*problem)


def _on_device_of(tensor: Tensor, launch: Callable, *arguments):
    """Triton launches on the current device, which need not be that of the tensors."""
    if not tensor.is_cuda:
        return launch(*arguments)
    with torch.cuda.device(tensor.device):
        return launch(*arguments)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"pymultiling runs on plain PyTorch, which is much slower here: {reason}", stacklevel=3)


def _torch_operator(operator: Operator) -> torch.library.CustomOpDef:
    def run(*arguments):
        return _run(operator, operator.python_arguments(arguments))

    name = f"pymultiling::{operator.name}"
    defined = torch.library.custom_op(name, run, mutates_args=operator.mutates, schema=operator.schema)
    defined.register_fake(operator.fake)
    return defined


REFERENCES = {name: operator.reference() for name, operator in OPERATORS.items()}
TORCH_OPERATORS = {name: _torch_operator(operator) for name, operator in OPERATORS.items()}
