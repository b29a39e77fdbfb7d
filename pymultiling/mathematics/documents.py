"""The tokens of each document of a batch, grouped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pymultiling.runtime.short_repr import short_repr


@dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a batch's tokens, as `group_tokens` makes them, for operators that sum over each document.

    Document c consists of the tokens order[offsets[c]], ..., order[offsets[c + 1] - 1], in the order of the batch. The
    tokens of no document follow in `order` from offsets[count] on.

    Attributes:
        ids: (tokens,) int64, the document index of each token. The tokens whose index is outside [0, count), such as -1
            for padding, belong to no document.
        count: number of documents.
        offsets: (count + 1,) int32, where in `order` each document begins and the last one ends.
        order: (tokens,) int32, the tokens of one document after the other. None: they are in this order already, so
            that order[i] = i.
    """

    ids: Tensor
    count: int
    offsets: Tensor
    order: Tensor | None

    def __repr__(self) -> str:
        return short_repr(self)


def group_tokens(ids: Tensor, count: int, *, in_order: bool = False) -> Documents:
    """Finds the tokens of each document, once for all operators that get the result as their `documents`.

    Everything runs on the device of `ids`, and nothing waits for it. An operator that gets ids instead of the result
    finds the tokens itself in every call, if its kernel needs them.

    Args:
        ids: (tokens,) int64, the document index of each token. Tokens whose index is outside [0, count), such as -1 for
            padding, belong to no document.
        count: number of documents.
        in_order: True if the caller knows that `ids` ascend and that tokens of no document are last. Nothing is sorted
            then. This is not checked: on a GPU, sums over other documents would be wrong.

    Returns:
        The grouped tokens.

    Raises:
        ValueError: the shape or dtype of `ids` does not fit, or `count` is negative.
    """
    if ids.ndim != 1 or ids.dtype != torch.int64 or count < 0:
        raise ValueError(
            f"ids must be int64 (tokens,) and count not negative, got {ids.dtype} {tuple(ids.shape)} and {count}"
        )
    documents = torch.where((ids >= 0) & (ids < count), ids, count)  # tokens of no document come last
    order = None
    if not in_order:
        documents, order = documents.sort(stable=True)
        order = order.to(torch.int32)
    offsets = torch.searchsorted(documents, torch.arange(count + 1, device=ids.device), out_int32=True)
    return Documents(ids, count, offsets, order)


def one_document(tokens: int, count: int, device: torch.device) -> Documents:
    """Returns the documents of tokens that all belong to the first of `count` documents."""
    offsets = torch.full((count + 1,), tokens, dtype=torch.int32, device=device)
    offsets[:1] = 0
    return Documents(torch.zeros(tokens, dtype=torch.int64, device=device), count, offsets, None)
