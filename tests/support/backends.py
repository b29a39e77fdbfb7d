"""Runs tests on one backend: with an instruction set of the C++ kernels, and on the device of Triton's kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pymultiling import triton_kernels
from pymultiling.ops import unavailable

INSTRUCTION_SETS = ("portable", "avx2", "avx512")
# The backends that tests run on. "cpp" is there once for each instruction set, behind its name.
BACKENDS = ("torch", *(f"cpp {level}" for level in INSTRUCTION_SETS), "triton")
KERNEL_DEVICE = "cuda"  # device type on which compiled Triton kernels run


@contextmanager
def running_on(selection: str) -> Iterator[str]:
    """Inside the block tests run on a backend. The block receives its name. The test is skipped if it cannot run here.

    C++ kernels use the instruction set of the selection. Tensors are created on the GPU if Triton kernels run there,
    and on the CPU if they run in Triton's interpreter.

    Args:
        selection: one of BACKENDS.
    """
    name, _, level = selection.partition(" ")
    reason = unavailable(name)
    if reason is not None:
        pytest.skip(reason)
    if level:
        with _instruction_set(level):
            yield name
    elif name == "triton" and not triton_kernels.interpreted():
        with torch.device(KERNEL_DEVICE):
            yield name
    else:
        yield name


def selected_instruction_set() -> str | None:
    """Returns the instruction set that C++ kernels use, or None if there are no C++ kernels."""
    return None if unavailable("cpp") else torch.ops.pymultiling_cpp.instruction_set("")


@contextmanager
def _instruction_set(level: str) -> Iterator[None]:
    """Inside the block C++ kernels use an instruction set. The test is skipped if this machine does not have it."""
    before = selected_instruction_set()
    try:
        torch.ops.pymultiling_cpp.instruction_set(level)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        torch.ops.pymultiling_cpp.instruction_set(before)
