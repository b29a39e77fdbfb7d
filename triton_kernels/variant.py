"""A variant of a kernel: all that is needed to compile it ahead of time, on a machine without a GPU."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NotRequired, TypedDict, Unpack

import torch
from torch import Tensor

if TYPE_CHECKING:
    from triton import JITFunction

# Dtypes of tensors that the kernels support, and Triton's names of pointers to them.
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class CompileOptions(TypedDict):
    """The fields of `Variant` that are passed to `Variant.of` as they are."""

    constants: dict[str, object]
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int
    maxnreg: NotRequired[int | None]
    fp_fusion: NotRequired[bool]


@dataclass(frozen=True)
class Variant:
    """One way in which a kernel is compiled. Each argument of the kernel is in `signature` or in `constants`.

    Attributes:
        operator: name of the operator.
        name: name of the variant in tables.
        kernel: the kernel.
        signature: {argument: Triton's name of its type}.
        constants: {argument: value}.
        divisible: integer arguments that are multiples of 16 for the tensors of models. (Addresses always are.)
        num_warps: warps per program.
        num_stages: stages of software pipelining.
        maxnreg: limit of the registers per thread, or None.
        fp_fusion: whether a product and a sum become one instruction, which rounds once.
    """

    operator: str
    name: str
    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[str, object]
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int
    maxnreg: int | None = None
    fp_fusion: bool = True

    @classmethod
    def of(
        cls,
        operator: str,
        name: str,
        kernel: JITFunction,
        pointers: dict[str, str],
        **options: Unpack[CompileOptions],
    ) -> Variant:
        """Makes a variant. Arguments of the kernel that are neither in `pointers` nor in the constants are int32.

        Args:
            operator: name of the operator.
            name: name of the variant in tables.
            kernel: the kernel.
            pointers: {argument: Triton's name of its type} of all tensors, and of numbers that are not int32.
            **options: the other fields.
        """
        constants = options["constants"]
        integers = [argument for argument in kernel.arg_names if argument not in pointers and argument not in constants]
        return cls(operator, name, kernel, signature={**pointers, **dict.fromkeys(integers, "i32")}, **options)


def short_name(dtype: torch.dtype) -> str:
    """Returns Triton's name of a dtype, for example bf16."""
    return POINTERS[dtype].removeprefix("*")


def warp_size(x: Tensor) -> int:
    """Returns the number of threads of a warp: 64 on AMD's data-centre GPUs, 32 elsewhere."""
    return _warp_size(x.device) if x.is_cuda else 32


@functools.cache
def _warp_size(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).warp_size
