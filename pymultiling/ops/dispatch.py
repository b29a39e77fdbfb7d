"""Which code runs an operator: the C++ kernels where they can, the plain PyTorch reference everywhere else."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from pymultiling import reference
from pymultiling.errors import BackendUnavailable

BACKENDS = ("auto", "triton", "cuda", "cpp", "torch")


def implementation(operator: str, tensor: Tensor, backend: str = "auto") -> Callable:
    """The function that runs `operator` on tensors like `tensor`.

    Raises:
        BackendUnavailable: `backend` was forced and cannot run them; says why.
        ValueError: no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "torch":
        return getattr(reference, operator)
    reason = unavailable("cpp" if backend == "auto" else backend, tensor)
    if reason is None:
        return getattr(torch.ops.pymultiling_cpp, operator)
    if backend == "auto":
        if tensor.device.type == "cpu" and load_extension() is not None:
            _warn_once(reason)
        return getattr(reference, operator)
    raise BackendUnavailable(f'backend="{backend}" cannot run {operator}: {reason}; backend="torch" always can')


def unavailable(backend: str, tensor: Tensor | None = None) -> str | None:
    """Why a backend cannot run (on this tensor, if one is given), in a few words; None where it can."""
    if backend == "torch":
        return None
    if backend != "cpp":
        return "this version has no such kernels yet"
    reason = load_extension()
    if reason is None and tensor is not None:
        if tensor.device.type != "cpu":
            return f"its kernels run on the CPU, the tensors are on {tensor.device}"
        if tensor.dtype not in (torch.float32, torch.bfloat16):
            return f"its kernels take float32 and bfloat16, not {tensor.dtype}"
    return reason


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"pymultiling runs on plain PyTorch, which is much slower here: {reason}", stacklevel=3)


@functools.cache
def load_extension() -> str | None:
    """Loads the C++ kernels, once; returns why they cannot be loaded, or None."""
    folder = Path(__file__).resolve().parents[1]
    found = [folder / f"_cpp{suffix}" for suffix in EXTENSION_SUFFIXES if (folder / f"_cpp{suffix}").exists()]
    if not found:
        return "the C++ extension was not built (pip install found no C++ compiler, or no torch to build against)"
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"the C++ extension does not fit this torch ({torch.__version__}); install pymultiling again ({error})"
    return None
