"""column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast


def column_energy(x: Tensor, documents: Tensor, count: int) -> Tensor:
    return document_sum(upcast(x).square(), documents, count)
