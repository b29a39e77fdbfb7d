"""Whether a backend can run on this machine: its kernels are loaded once, and where they cannot be, says why."""

from __future__ import annotations

import functools
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from pymultiling import triton_kernels
from pymultiling.ops.operator import Kernels
from pymultiling.ops.registry import BACKENDS, KERNELS

OLDEST_GPU = (8, 0)  # NVIDIA's compute capability that Triton and the CUDA kernel ask for


def unavailable(backend: str, tensor: Tensor | None = None) -> str | None:
    """Why a backend cannot run (on this tensor, if one is given), in a few words; None where it can.

    Raises:
        ValueError: no such backend, or "auto", which is none.
    """
    if backend == "torch":
        return None
    if backend not in KERNELS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(KERNELS)} and torch")
    return why_unavailable(backend, KERNELS[backend], tensor)


def require_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")


def why_unavailable(backend: str, kernels: Kernels, tensor: Tensor | None) -> str | None:
    """Why kernels of a backend cannot run on this machine, or not on this tensor; None where they can."""
    if backend == "triton":
        return load_triton() or _not_for_triton(kernels, tensor) or kernels.wrong_dtype(tensor)
    if backend == "cpp":
        return load_extension("_cpp") or kernels.wrong_device(tensor) or kernels.wrong_dtype(tensor)
    return load_extension("_cuda") or _not_for_cuda(kernels, tensor) or kernels.wrong_dtype(tensor)


def _not_for_triton(kernels: Kernels, tensor: Tensor | None) -> str | None:
    if triton_kernels.interpreted():
        if tensor is not None and tensor.device.type != "cpu":
            return f"under TRITON_INTERPRET its kernels run on the CPU, the tensors are on {tensor.device}"
    elif (tensor is None or tensor.device.type != "cuda") and not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    elif (reason := kernels.wrong_device(tensor)) is not None:
        return reason
    elif not torch.version.hip and torch.cuda.get_device_capability(getattr(tensor, "device", None)) < OLDEST_GPU:
        return "Triton needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return None


def _not_for_cuda(kernels: Kernels, tensor: Tensor | None) -> str | None:
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if (reason := kernels.wrong_device(tensor)) is not None:
        return reason
    if torch.cuda.get_device_capability(getattr(tensor, "device", None)) < OLDEST_GPU:
        return "its kernel needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return None


@functools.cache
def load_triton() -> str | None:
    """Imports the Triton kernels, once; returns why they cannot be imported, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    try:
        triton_kernels.interpreted()
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return None


@functools.cache
def load_extension(name: str = "_cpp") -> str | None:
    """Loads the kernels in C++ ("_cpp") or in CUDA C++ ("_cuda"), once; returns why they cannot be loaded, or None."""
    language, missing = {
        "_cpp": ("C++", "no C++ compiler, or no torch to build against"),
        "_cuda": ("CUDA", "no nvcc, or a torch without CUDA"),
    }[name]
    folder = Path(__file__).resolve().parents[1]
    found = [folder / f"{name}{suffix}" for suffix in EXTENSION_SUFFIXES if (folder / f"{name}{suffix}").exists()]
    if not found:
        return f"the {language} extension was not built (pip install found {missing})"
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"the {language} extension does not fit this torch ({torch.__version__}); install pymultiling again ({error})"
    return None
