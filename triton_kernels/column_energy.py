"""column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2.

x (tokens, N), offsets (count + 1,) and order (tokens,) int32 -> energy (count, N) float32, computed by the kernel in
columns.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pymultiling.triton_kernels.columns import launch, variants_of
from pymultiling.triton_kernels.variant import Variant


def column_energy(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.column_energy`."""
    return launch(x, documents, count, offsets, order, active=False)


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants of `columns.variants_of`. warp: threads of a warp."""
    return variants_of("column_energy", active=False, warp=warp)
