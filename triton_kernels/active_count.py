"""active_count: active[c, n] = the number of tokens t of document c with x[t, n] > 0.

x (tokens, N), offsets (count + 1,) and order (tokens,) int32 -> active (count, N) int64, computed by the kernel in
columns.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pymultiling.triton_kernels.columns import launch, variants_of
from pymultiling.triton_kernels.variant import Variant


def active_count(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """Launches the kernel. Arguments and results are those of `pymultiling.ops.reference.active_count`."""
    return launch(x, documents, count, offsets, order, active=True)


def variants(warp: int = 32) -> Iterator[Variant]:
    """Yields the variants of `columns.variants_of`. warp: threads of a warp."""
    return variants_of("active_count", active=True, warp=warp)
