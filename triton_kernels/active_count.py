"""active_count: active[c, n] = the number of tokens t of document c with x[t, n] > 0.

x (tokens, N), documents (tokens,) int64 -> active (count, N) int64, computed by the kernel in columns.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pymultiling.triton_kernels.columns import launch, variants_of
from pymultiling.triton_kernels.variant import Variant


def active_count(x: Tensor, documents: Tensor, count: int) -> Tensor:
    return launch(x, documents, count, active=True)


def variants(lanes: int = 32) -> Iterator[Variant]:
    return variants_of("active_count", active=True, lanes=lanes)
