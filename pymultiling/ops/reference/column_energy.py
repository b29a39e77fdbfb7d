"""column_energy: energy[c, n] = sum over the tokens t of document c of x[t, n]^2."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast


def column_energy(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """Sums the squares of each column over the tokens of each document.

    Args:
        x: (tokens, N).
        documents: (tokens,) int64, the document index of each token, -1 for padding.
        count: number of documents.
        offsets: not read: by it and `order` the kernels find the tokens of each document.
        order: not read.

    Returns:
        (count, N), the sum of x[t, n]^2 over the tokens t of document c, in float32, or in float64 for float64 input.
    """
    return document_sum(upcast(x).square(), documents, count)
