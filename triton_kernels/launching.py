"""Launches kernels with less work on the host than Triton's own launch, which takes it 10 to 40 microseconds.

Triton derives from all arguments which compiled kernel fits. A launch with the same numbers, dtypes, alignments and
constants as an earlier one needs the same kernel, so it is looked up in one table and launched as Triton documents for
compiled kernels: compiled[grid](*arguments).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from triton import JITFunction

if TYPE_CHECKING:
    from torch import Tensor
    from triton.compiler import CompiledKernel

NUMBERS = frozenset({int, float, bool, type(None)})  # types of arguments that are no tensors
MOST_LAUNCHES = 10_000  # kinds of launches to remember, 1 to 3 KB each

# {what decides which compiled kernel fits: the compiled kernel, and its constants in the order of the arguments}
_known: dict[tuple[object, ...], tuple[CompiledKernel, tuple[object, ...]]] = {}


def ceil_div(a: int, b: int) -> int:
    """Returns a / b, rounded up. triton.cdiv does too, but takes 2 microseconds."""
    return -(-a // b)


def is_interpreted(kernel: JITFunction) -> bool:
    """Returns whether Triton's interpreter runs the kernel."""
    return not isinstance(kernel, JITFunction)


def launch_kernel(
    kernel: JITFunction,
    programs: int,
    arguments: tuple[Tensor | int | float | None, ...],
    constants: dict[str, object],
    *,
    num_warps: int,
    num_stages: int,
    enable_fp_fusion: bool | None = None,
    maxnreg: int | None = None,
) -> None:
    """Launches a kernel.

    Args:
        kernel: the kernel.
        programs: number of programs.
        arguments: the first arguments of the kernel, by position. Tensors must be on the current device.
        constants: {name: value} of the other arguments, which are constants of the kernel.
        num_warps: warps of a program.
        num_stages: stages of software pipelining.
        enable_fp_fusion: whether a product and a sum are fused. None: Triton's default.
        maxnreg: limit of the registers per thread, for NVIDIA's GPUs. None: no limit.
    """
    options: dict[str, object] = {"num_warps": num_warps, "num_stages": num_stages}
    if enable_fp_fusion is not None:
        options["enable_fp_fusion"] = enable_fp_fusion
    if maxnreg is not None:
        options["maxnreg"] = maxnreg
    # For AMD's GPUs the compiled kernel also depends on the size of the tensors' memory.
    if is_interpreted(kernel) or torch.version.hip:
        kernel[(programs,)](*arguments, **constants, **options)
        return
    key = _key(kernel, arguments, constants, options)
    known = _known.get(key)
    if known is not None:
        compiled, values = known
        compiled[programs, 1, 1](*arguments, *values)
        return
    compiled = kernel[(programs,)](*arguments, **constants, **options)
    if compiled is None:  # one of Triton's hooks has taken the launch
        return
    if len(_known) >= MOST_LAUNCHES:
        _known.clear()
    _known[key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(arguments) :])


def _key(
    kernel: JITFunction,
    arguments: tuple[Tensor | int | float | None, ...],
    constants: dict[str, object],
    options: dict[str, object],
) -> tuple[object, ...]:
    """Returns what decides which compiled kernel fits, and more: all numbers, though Triton only looks at some.

    Types are part of it, because 1, 1.0 and True are equal but need different kernels.
    """
    kinds = tuple(map(type, arguments))
    tensors = [x for x, kind in zip(arguments, kinds) if kind not in NUMBERS]
    return (
        id(kernel),
        tensors[0].device,
        kinds,
        *[x for x, kind in zip(arguments, kinds) if kind in NUMBERS],
        *[x.dtype for x in tensors],
        *[x.data_ptr() % 16 == 0 for x in tensors],
        *constants.values(),
        *options.values(),
    )
