"""Launches on tensors: several runs of a kernel in different orders, whose results must be the same, bit for bit."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tests.ptx.interpreter import REVERSE, ROUND_ROBIN, Executable, Options

# What happens early in one run happens late in another one. Programs and warps run in three orders.
ORDERS = (Options(), Options(schedule=REVERSE, late=True), Options(schedule=ROUND_ROBIN, late=True, residents=3))
SUSPICIOUS = ORDERS[1]  # the one run where a mistake most likely shows


class KernelMistake(AssertionError):
    """A kernel has raced, left its tensors, or has results that depend on the order of its warps and programs."""


executed: Counter[str] = Counter()  # {kernel: instructions of warps that were executed}


@functools.cache
def executable(ptx: str) -> Executable:
    """Returns a kernel that is ready to run."""
    return Executable(ptx)


def extents(tensors: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Returns (begin, end) of the memory of tensors, in order. Those that overlap become one."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(map(_extent, (x for x in tensors if x.numel()))):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _extent(x: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def _bytes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns all bytes of the memory of tensors, as tensors that share it."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors if x.numel()}
    return [torch.empty(0, dtype=torch.uint8).set_(storage) for storage in storages.values()]


def launch(
    name: str,
    ptx: str,
    grid: tuple[int, int, int],
    threads: int,
    values: Sequence[int | bytes],
    tensors: Sequence[Tensor],
    *,
    shared: int = 0,
    orders: Sequence[Options] = ORDERS,
    disturbed: bool = True,
) -> None:
    """Runs a kernel in several orders and compares the results. The last run, whose results stay, may be disturbed.

    Args:
        name: of the kernel, in errors.
        ptx: its text.
        grid: numbers of programs.
        threads: threads of a program.
        values: of the parameters.
        tensors: the memory that the kernel may use.
        shared: bytes of shared memory of a program.
        orders: how it runs.
        disturbed: whether approximate arithmetic is as inexact as documented in the end. Then one run more is needed,
            unless there is only one.

    Raises:
        KernelMistake: a run found a mistake, or the results differ.
    """
    if 0 in grid:
        return
    kernel, memory = executable(ptx), _bytes(tensors)
    runs = list(orders)
    if disturbed:
        runs = [*(runs if len(runs) > 1 else []), replace(runs[-1], disturbed=True)]
    before = [x.clone() for x in memory] if len(runs) > 1 else []
    first: list[Tensor] | None = None
    for number, options in enumerate(runs):
        for x, y in zip(memory, before if number else []):
            x.copy_(y)
        outcome = kernel.run(grid, threads, values, shared=shared, ranges=extents(tensors), options=options)
        executed[name] += outcome.executed
        if outcome.complaints:
            raise KernelMistake(f"{name}, {options}: {outcome.complaints} mistakes\n{outcome.log}")
        if options.disturbed or len(runs) == 1:
            continue
        if first is None:
            first = [x.clone() for x in memory]
        elif not all(map(torch.equal, first, memory)):
            raise KernelMistake(f"{name}, {options}: the results are not those of {orders[0]}")
