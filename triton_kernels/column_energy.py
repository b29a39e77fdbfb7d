"""column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2.

x (tokens, N), documents (tokens,) int64 -> energy (count, N) float32, computed by the kernel in columns.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pymultiling.triton_kernels.columns import launch, variants_of
from pymultiling.triton_kernels.variant import Variant


def column_energy(x: Tensor, documents: Tensor, count: int) -> Tensor:
    return launch(x, documents, count, active=False)


def variants(lanes: int = 32) -> Iterator[Variant]:
    return variants_of("column_energy", active=False, lanes=lanes)
