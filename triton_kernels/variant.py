"""One way in which a kernel is compiled: enough to compile it ahead of time, on a machine without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from triton import JITFunction

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}  # dtypes that the kernels take


@dataclass(frozen=True)
class Variant:
    """A kernel's arguments are those in `signature` and those in `constants`, each in one of the two.

    `divisible`: the integers that a launch on tensors as models have them finds to be multiples of 16, as are addresses.
    """

    operator: str
    name: str
    kernel: JITFunction
    signature: dict[str, str]  # {argument: Triton's name of its type}
    constants: dict[str, object]  # {argument: value}
    divisible: tuple[str, ...]
    num_warps: int
    num_stages: int

    @classmethod
    def of(cls, operator: str, name: str, kernel: JITFunction, pointers: dict[str, str], **others) -> Variant:
        """With what is neither in `pointers` nor a constant an int32."""
        constants = others["constants"]
        integers = [name for name in kernel.arg_names if name not in pointers and name not in constants]
        return cls(operator, name, kernel, signature={**pointers, **dict.fromkeys(integers, "i32")}, **others)


def short_name(dtype: torch.dtype) -> str:
    return POINTERS[dtype].removeprefix("*")


def warp_size(x: Tensor) -> int:
    """64 on AMD's data-centre GPUs, 32 elsewhere."""
    return torch.cuda.get_device_properties(x.device).warp_size if x.is_cuda else 32
