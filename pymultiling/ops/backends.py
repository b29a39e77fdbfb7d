"""Loads the kernels of each backend once and tells why a backend cannot run on this machine."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import pymultiling.triton_kernels as triton_kernels
from pymultiling.ops.arguments import Backend, KernelBackend
from pymultiling.ops.operator import Kernels
from pymultiling.ops.registry import BACKENDS, KERNELS
from pymultiling.runtime.gpus import capability

OLDEST_GPU = (8, 0)  # the lowest compute capability of NVIDIA's GPUs that Triton and the CUDA kernel support


def unavailable(backend: Backend, tensor: Tensor | None = None) -> str | None:
    """Returns why a backend cannot run on this machine, or None if it can.

    Args:
        backend: "triton", "cuda", "cpp" or "torch".
        tensor: of any shape. If given, the answer also covers its device and dtype.

    Returns:
        The reason in a few words, or None if the backend can run.

    Raises:
        ValueError: there is no such backend. "auto" is not accepted, because it is a choice among backends.
    """
    if backend == "torch":
        return None
    if backend not in KERNELS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(KERNELS)} and torch")
    return why_unavailable(backend, KERNELS[backend], tensor)


def require_backend(backend: str) -> None:
    """Raises ValueError unless there is such a backend."""
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def why_unavailable(backend: KernelBackend, kernels: Kernels, tensor: Tensor | None) -> str | None:
    """Returns why a backend's kernels cannot run on this machine, or None if they can.

    Args:
        backend: name of the backend.
        kernels: what its kernels support.
        tensor: if given, the answer also covers the device and dtype of this tensor.
    """
    if backend == "triton":
        return load_triton() or _triton_mismatch(kernels, tensor) or kernels.dtype_mismatch(tensor)
    if backend == "cpp":
        return load_extension("_cpp") or kernels.device_mismatch(tensor) or kernels.dtype_mismatch(tensor)
    return load_extension("_cuda") or _cuda_mismatch(kernels, tensor) or kernels.dtype_mismatch(tensor)


def _triton_mismatch(kernels: Kernels, tensor: Tensor | None) -> str | None:
    """Returns why Triton kernels cannot run on the tensor's device (None: on any GPU here), or None if they can."""
    if triton_kernels.interpreted():
        if tensor is not None and tensor.device.type != "cpu":
            return f"under TRITON_INTERPRET its kernels run on the CPU, the tensors are on {tensor.device}"
    elif (tensor is None or tensor.device.type != "cuda") and not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    elif (reason := kernels.device_mismatch(tensor)) is not None:
        return reason
    elif not torch.version.hip and capability(None if tensor is None else tensor.device) < OLDEST_GPU:
        return "Triton needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return None


def _cuda_mismatch(kernels: Kernels, tensor: Tensor | None) -> str | None:
    """Returns why CUDA kernels cannot run on the tensor's device (None: on any GPU here), or None if they can."""
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if (reason := kernels.device_mismatch(tensor)) is not None:
        return reason
    if capability(None if tensor is None else tensor.device) < OLDEST_GPU:
        return "its kernel needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return None


@functools.cache
def load_triton() -> str | None:
    """Imports the Triton kernels once. Returns why they cannot be imported, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    try:
        triton_kernels.interpreted()
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


@functools.cache
def load_extension(name: Literal["_cpp", "_cuda"] = "_cpp") -> str | None:
    """Loads the kernels in C++ ("_cpp") or in CUDA C++ ("_cuda") once. Returns why they cannot be loaded, or None."""
    language, missing = {
        "_cpp": ("C++", "no C++ compiler, or no torch to build against"),
        "_cuda": ("CUDA", "no nvcc, or a torch without CUDA"),
    }[name]
    folder = Path(__file__).resolve().parents[1]
    candidates = [folder / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES]
    built = [path for path in candidates if path.exists()]
    if not built:
        return f"the {language} extension was not built (pip install found {missing})"
    if (reason := _torch_mismatch(built[0].with_name(f"{name}.torch"))) is not None:
        return f"the {language} extension {reason}"
    load_library: Callable[[str], None] = torch.ops.load_library
    try:
        load_library(str(built[0]))
    except OSError as error:
        version = torch.__version__
        return f"the {language} extension does not fit this torch ({version}); install pymultiling again ({error})"
    return None


def _torch_mismatch(file: Path) -> str | None:
    """Returns why an extension does not fit the torch that runs, or None if it may.

    Releases of torch with another first or second number have other symbols and layouts, with which an extension may
    load and then fail.

    file: where the build has left the version of torch that it used.
    """
    if not file.exists():
        return None
    version = file.read_text("utf-8").strip()
    if version.split(".")[:2] == torch.__version__.split(".")[:2]:
        return None
    return (
        f"was built for torch {version}, and this is torch {torch.__version__}: install pymultiling again, or torch "
        f"{version.partition('+')[0]}"
    )
