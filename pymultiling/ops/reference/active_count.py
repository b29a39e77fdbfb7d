"""active_count: active[c, n] = the number of tokens t of document c with x[t, n] > 0."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.sums import document_sum


def active_count(x: Tensor, documents: Tensor, count: int) -> Tensor:
    return document_sum((x > 0).long(), documents, count)
