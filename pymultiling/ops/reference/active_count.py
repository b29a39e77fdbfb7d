"""active_count: active[c, n] = the number of tokens t of document c with x[t, n] > 0."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.sums import document_sum


def active_count(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> Tensor:
    """Counts how often each neuron is active in each document.

    Args:
        x: (tokens, N). NaN is not active.
        documents: (tokens,) int64, the document index of each token, -1 for tokens that are not counted.
        count: number of documents.
        offsets: not read: by it and `order` the kernels find the tokens of each document.
        order: not read.

    Returns:
        (count, N) int64, the number of tokens t of document c with x[t, n] > 0.
    """
    return document_sum((x > 0).long(), documents, count)
