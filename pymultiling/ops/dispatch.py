"""Which code runs an operator: Triton kernels on a GPU, C++ kernels on the CPU, the plain PyTorch reference everywhere else.

A kernel in CUDA C++ is there for qk_importance, of bfloat16 attention without norms over the head and soft caps. It runs where it
is asked for by name.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from pymultiling import triton_kernels
from pymultiling.errors import BackendUnavailable
from pymultiling.ops import reference

BACKENDS = ("auto", "triton", "cuda", "cpp", "torch")
FASTEST = {"cpu": "cpp", "cuda": "triton"}  # {type of device: backend}; ROCm's devices are "cuda" too
OLDEST_GPU = (8, 0)  # NVIDIA's compute capability that Triton and the CUDA kernel ask for


def implementation(operator: str, tensor: Tensor, backend: str = "auto") -> Callable:
    """The function that runs `operator` on tensors like `tensor`.

    Raises:
        BackendUnavailable: `backend` was forced and cannot run them; says why.
        ValueError: no such backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
    chosen = FASTEST.get(tensor.device.type, "torch") if backend == "auto" else backend
    reason = unavailable(chosen, tensor)
    function = _function(operator, tensor, chosen) if reason is None else None
    if function is not None:
        return function
    if backend == "auto":
        if unavailable(chosen) is not None:
            _warn_once(reason)
        return getattr(reference, operator)
    reason = reason or "it has no such kernel"
    raise BackendUnavailable(f'backend="{backend}" cannot run {operator}: {reason}; backend="torch" always can')


def unavailable(backend: str, tensor: Tensor | None = None) -> str | None:
    """Why a backend cannot run (on this tensor, if one is given), in a few words; None where it can."""
    if backend == "torch":
        return None
    if backend == "triton":
        return load_triton() or _not_for_triton(tensor)
    if backend == "cpp":
        return load_extension("_cpp") or _not_for_cpp(tensor)
    return load_extension("_cuda") or _not_for_cuda(tensor)


def _function(operator: str, tensor: Tensor, backend: str) -> Callable | None:
    """None where the backend has no such kernel."""
    if backend == "torch":
        return getattr(reference, operator)
    if backend == "cpp":
        return getattr(torch.ops.pymultiling_cpp, operator, None)  # an extension of an older version may lack it
    if backend == "cuda":
        launch = getattr(torch.ops.pymultiling_cuda, operator, None)
        return launch and functools.partial(_within_cuda, operator, launch)
    launch = triton_kernels.launcher(operator)
    return launch and functools.partial(_on_device_of, tensor, launch)


def _on_device_of(tensor: Tensor, launch: Callable, *arguments):
    """Triton launches on the current device, which need not be that of the tensors."""
    if not tensor.is_cuda:
        return launch(*arguments)
    with torch.cuda.device(tensor.device):
        return launch(*arguments)


def _not_for_triton(tensor: Tensor | None) -> str | None:
    if triton_kernels.interpreted():
        if tensor is not None and tensor.device.type != "cpu":
            return f"under TRITON_INTERPRET its kernels run on the CPU, the tensors are on {tensor.device}"
    elif (tensor is None or tensor.device.type != "cuda") and not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    elif tensor is not None and tensor.device.type != "cuda":
        return f"its kernels run on NVIDIA's and AMD's GPUs, the tensors are on {tensor.device}"
    elif not torch.version.hip and torch.cuda.get_device_capability(getattr(tensor, "device", None)) < OLDEST_GPU:
        return "Triton needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return _not_among(tensor, torch.float32, torch.bfloat16, torch.float16)


def _not_for_cuda(tensor: Tensor | None) -> str | None:
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if tensor is not None and tensor.device.type != "cuda":
        return f"its kernel runs on NVIDIA's GPUs, the tensors are on {tensor.device}"
    if torch.cuda.get_device_capability(getattr(tensor, "device", None)) < OLDEST_GPU:
        return "its kernel needs compute capability {}.{}, the GPU has less".format(*OLDEST_GPU)
    return _not_among(tensor, torch.bfloat16)


def _within_cuda(operator: str, launch: Callable, *arguments):
    """qk_importance on what its CUDA kernel takes."""
    q, _, q_plain, k_plain, cos, _, _, q_gain, k_gain, _, _, softcap, _ = arguments
    plain = [x for x in (q_plain, k_plain) if x is not None]
    reason = None
    if q_gain is not None or k_gain is not None:
        reason = "its kernel knows no norm over the head"
    elif softcap is not None:
        reason = "its kernel knows no soft cap"
    elif q.shape[3] % 32 or q.shape[3] > 256:
        reason = f"its kernel takes heads whose size is a multiple of 32, 256 at most, not {q.shape[3]}"
    elif cos is not None and cos.shape[2] % 4:
        reason = f"its kernel takes a multiple of 4 rotated dimensions, not {cos.shape[2]}"
    elif plain:
        reason = next(filter(None, (_not_among(x, torch.bfloat16) for x in plain)), None)
    if reason is not None:
        raise BackendUnavailable(f'backend="cuda" cannot run {operator}: {reason}; backend="torch" always can')
    return launch(*arguments)


def _not_for_cpp(tensor: Tensor | None) -> str | None:
    if tensor is not None and tensor.device.type != "cpu":
        return f"its kernels run on the CPU, the tensors are on {tensor.device}"
    return _not_among(tensor, torch.float32, torch.bfloat16)


def _not_among(tensor: Tensor | None, *dtypes: torch.dtype) -> str | None:
    if tensor is None or tensor.dtype in dtypes:
        return None
    *most, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
    taken = f"{', '.join(most)} and {last}" if most else last
    return f"its kernels take {taken}, not {tensor.dtype}"


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"pymultiling runs on plain PyTorch, which is much slower here: {reason}", stacklevel=3)


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
