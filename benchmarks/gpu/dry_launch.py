"""Compiles the Triton kernels that a program launches, without a GPU.

Inside `dry_launches` the operators treat tensors on the CPU as if these were on a GPU, and a launch compiles its kernel
and stops there. Triton computes the key of its cache from the kernel's source, the dtypes and alignment of the tensors,
the constants and the chip, but not from the device that holds the tensors. So a later launch on that chip finds the
compiled kernel in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from subprocess import CalledProcessError
from typing import Any
from unittest.mock import patch

import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime.jit import JITFunction

from pymultiling.ops import backends, dispatch
from pymultiling.triton_kernels import launching


@dataclass(frozen=True)
class Compilation:
    """A kernel that Triton has looked up in its cache.

    Attributes:
        kernel: name of the kernel's function, with its module.
        key: its key in Triton's cache.
        cached: whether it was in the cache, so that nothing was compiled.
        seconds: time of the compilation, or of reading the cache.
    """

    kernel: str
    key: str
    cached: bool
    seconds: float


@contextmanager
def recorded_compilations() -> Iterator[list[Compilation]]:
    """Yields a list to which every kernel that Triton compiles or finds in its cache is appended."""
    compilations: list[Compilation] = []

    def record(*, src: Any, metadata: dict[str, Any], times: Any, cache_hit: bool, **_: object) -> None:
        name = f"{src.fn.__module__.rpartition('.')[2]}.{src.fn.__name__}"
        compilations.append(Compilation(name, metadata["hash"], cache_hit, times.total / 1e6))

    with patch.object(triton.knobs.compilation, "listener", record):
        yield compilations


class ChipDriver:
    """Tells Triton which chip to compile for."""

    def __init__(self, capability: int):
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def dry_launches(capability: int) -> Iterator[list[Compilation]]:
    """Makes operators on the CPU compile their Triton kernels for a chip; their results are zeros.

    Args:
        capability: the chip's compute capability times 10, such as 90.

    Yields:
        A list to which every kernel is appended.

    Raises:
        RuntimeError: TRITON_INTERPRET is set, so that there is nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set, so that Triton interprets kernels and compiles nothing: unset it")
    driver = triton.runtime.driver
    before = driver._active
    with ExitStack() as stack:
        stack.callback(setattr, driver, "_active", before)
        driver.set_active(ChipDriver(capability))
        stack.enter_context(patch.dict(dispatch.FASTEST, cpu="triton"))
        stack.enter_context(patch.object(dispatch, "why_unavailable", _why_unavailable))
        stack.enter_context(patch.object(dispatch, "_launch_on_device_of", _launch))
        stack.enter_context(patch.object(JITFunction, "run", _compile))
        stack.enter_context(patch.object(launching, "_known", {}))  # kernels that were not loaded stay out of the table
        yield stack.enter_context(recorded_compilations())


def _why_unavailable(backend: str, kernels: Any, tensor: Tensor | None) -> str | None:
    """Does not ask for a GPU."""
    if backend == "triton":
        return kernels.dtype_mismatch(tensor)
    return backends.why_unavailable(backend, kernels, tensor)


def _launch(tensor: Tensor, launch: Callable[..., Any], *arguments: object) -> Any:
    """Compiles the kernels of a launcher and returns results of zeros."""
    results = launch(*arguments)
    for result in () if results is None else (results,) if isinstance(results, Tensor) else results:
        result.zero_()
    return results


_run = JITFunction.run


def _compile(function: JITFunction, *arguments: object, grid: object, warmup: bool, **options: object) -> object:
    """Takes the place of the method that compiles and launches a kernel, and only compiles it."""
    kernel = _run(function, *arguments, grid=grid, warmup=True, **options)
    # Triton 3.6 also compiles a launcher in C for every list of argument types, which takes a second. It is linked
    # against NVIDIA's driver, which a machine without a GPU lacks.
    if hasattr(nvidia, "make_launcher"):
        with suppress(AssertionError, OSError, ImportError, CalledProcessError):
            nvidia.CudaLauncher(kernel.src, kernel.metadata)
    return kernel
