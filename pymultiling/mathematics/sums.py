"""Sums over the tokens of each document."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Converts x to the dtype in which sums are computed: float64 stays, every other dtype becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def document_sum(values: Tensor, documents: Tensor, count: int) -> Tensor:
    """Sums the rows of each document.

    Args:
        values: (tokens, N), one row for each token.
        documents: (tokens,) int64, the document index of each row. A row whose index is outside [0, count), such as -1
            for padding, is left out.
        count: number of documents.

    Returns:
        (count, N) in the dtype of `values`.
    """
    sums = values.new_zeros(count + 1, values.shape[1])  # row 0 receives the padding
    sums.index_add_(0, torch.where((documents >= 0) & (documents < count), documents + 1, 0), values)
    return sums[1:].clone()  # not a view: results of operators begin where their memory begins
