"""Sums over the tokens of each document."""

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """`x` in the dtype that sums are kept in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def document_sum(values: Tensor, documents: Tensor, count: int) -> Tensor:
    """(tokens, N) -> (count, N): the sum of the rows of each document; rows of document -1 (padding) are left out."""
    sums = values.new_zeros(count + 1, values.shape[1])  # padding's row first
    sums.index_add_(0, documents + 1, values)
    return sums[1:]
