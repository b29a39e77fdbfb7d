"""Tensors of the fuzz: numbers of every kind in every layout, described by a few plain values.

A tensor's description is drawn, its numbers come from the description's seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Magnitudes of "wide" numbers go from 1e-20 to 1e20. Some "special" numbers are infinite, NaN, zeros of both signs, the
# largest, the smallest or denormal; some "infinite" ones are infinite. All "equal" numbers are the same.
DTYPES = ("float32", "bfloat16", "float16")
KINDS = ("normal", "integers", "wide", "special", "infinite", "equal", "zero")
FINITE_KINDS = ("normal", "integers", "wide", "equal", "zero")
# With an "offset" the memory begins in the middle of an allocation, with a "row stride" rows are parts of longer rows,
# and with a "column stride" they are every second number. "transposed" exchanges the last two dimensions in memory.
# The first dimension of an "expanded" tensor has stride 0.
LAYOUTS = ("contiguous", "offset", "row stride", "column stride", "transposed", "expanded")


@dataclass(frozen=True)
class Numbers:
    """What the numbers of a case's tensors are, and how they lie in memory.

    Attributes:
        seed: of all numbers.
        dtype: name of the dtype.
        kind: one of KINDS.
        layout: one of LAYOUTS.
        factor: power of ten by which all numbers are multiplied.
    """

    seed: int = 0
    dtype: str = "float32"
    kind: str = "normal"
    layout: str = "contiguous"
    factor: int = 0

    def tensor(self, which: int, *shape: int, kind: str | None = None) -> Tensor:
        """Returns a tensor. `which` distinguishes the tensors of a case; `kind` replaces the case's kind."""
        generator = torch.Generator().manual_seed(1000 * self.seed + which)
        dtype = getattr(torch, self.dtype)
        values = 10.0**self.factor * _values(kind or self.kind, shape, dtype, generator)
        return lay_out(values.to(dtype), self.layout)


def _values(kind: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Returns float64 numbers of a kind."""
    values = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "integers":
        return (1.5 * values).round()
    if kind == "wide":
        return values * 10 ** (40 * torch.rand(shape, dtype=torch.float64, generator=generator) - 20)
    if kind == "equal":
        return torch.full(shape, 0.7, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros(shape, dtype=torch.float64)
    if kind in ("special", "infinite"):
        info = torch.finfo(dtype)
        specials = [math.inf, -math.inf]
        if kind == "special":
            specials += [math.nan, 0.0, -0.0, info.max, info.min, info.tiny, info.smallest_normal / 4]
        choice = torch.randint(0, 8 * len(specials), shape, generator=generator)
        for number, special in enumerate(specials):
            values[choice == number] = special
    return values


def lay_out(x: Tensor, layout: str) -> Tensor:
    """Returns the numbers of x in a layout. Numbers around them are NaN."""
    if x.ndim < 2 or layout == "contiguous":
        return x.contiguous()
    *outer, rows, columns = x.shape
    if layout == "expanded":
        return x[:1].expand(x.shape) if x.shape[0] else x
    if layout == "transposed":
        return x.mT.contiguous().mT
    if layout == "offset":
        memory = torch.full((x.numel() + 3,), torch.nan, dtype=x.dtype)
        view = memory[3:].view(x.shape)
    elif layout == "row stride":
        view = torch.full((*outer, rows, columns + 5), torch.nan, dtype=x.dtype)[..., 3 : 3 + columns]
    else:
        view = torch.full((*outer, rows, 2 * columns), torch.nan, dtype=x.dtype)[..., ::2]
    return view.copy_(x)


def document_ids(seed: int, tokens: int, count: int) -> Tensor:
    """Returns document indices (tokens,) in runs of random lengths in any order, with padding among them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, count, (tokens,), generator=generator) if count else torch.full((tokens,), -1)
    longest = int(torch.randint(1, 6, (), generator=generator))
    return ids.repeat_interleave(longest)[:tokens]
