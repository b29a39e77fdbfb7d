"""Padded batches of documents of similar length, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DOCUMENTS_SORTED = 1024  # documents that are sorted by length at a time


@dataclass(frozen=True)
class Batch:
    """A batch of documents.

    Attributes:
        input_ids: (documents, length) int64.
        attention_mask: (documents, length) int64, 0 for padding.
        order: index of each document in the sequence that the batches were made from.
    """

    input_ids: Tensor
    attention_mask: Tensor
    order: list[int]

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return int(self.attention_mask.sum())

    def counted(self, starts: Tensor) -> Tensor:
        """Returns a mask of the tokens from a start on, (documents, length) bool, of a batch padded on the right.

        starts: (documents,) int64, the index of the first token that counts in each document.
        """
        return self.attention_mask.bool() & (torch.arange(self.input_ids.shape[1]) >= starts[:, None])

    def halves(self) -> tuple[Batch, Batch]:
        """Splits a batch that is padded on the right into two. Each half is as long as its longest document."""
        middle = len(self.order) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Batch:
        mask = self.attention_mask[rows]
        length = int(mask.sum(1).max())
        return Batch(self.input_ids[rows, :length], mask[:, :length], self.order[rows])


def make_batches(
    documents: Iterable[Sequence[int] | npt.NDArray[np.int32]],
    batch_tokens: int,
    pad: int = 0,
    *,
    left: bool = False,
    extra_tokens: int = 0,
    window: int = DOCUMENTS_SORTED,
    group: Callable[[int, int], Hashable] = lambda length, added: None,
) -> Iterator[Batch]:
    """Yields batches of at most `batch_tokens` tokens, padding included. A longer document is a batch of its own.

    Within a window, batches come from the longest documents to the shortest.

    Args:
        documents: the token ids of each document.
        batch_tokens: tokens of a batch, padding included.
        pad: token id of the padding.
        left: True: pad on the left. False: pad on the right.
        extra_tokens: tokens that will be appended to each document. They count as tokens of the batch.
        window: how many documents are held and sorted at a time.
        group: documents share a batch if group(length, extra_tokens) is the same, as `length_group` says of a model.
    """
    indexed = enumerate(documents)
    while items := list(islice(indexed, window)):
        items.sort(key=lambda item: -len(item[1]))
        start = 0
        while start < len(items):
            length = len(items[start][1])
            fitting = items[start : start + max(1, batch_tokens // (length + extra_tokens))]
            groups = [group(len(tokens), extra_tokens) for _, tokens in fitting]
            stop = start + next((number for number, other in enumerate(groups) if other != groups[0]), len(groups))
            yield _pad(items[start:stop], length, pad, left)
            start = stop


def _pad(items: list[tuple[int, Sequence[int] | npt.NDArray[np.int32]]], length: int, pad: int, left: bool) -> Batch:
    lengths = torch.tensor([len(tokens) for _, tokens in items])[:, None]
    positions = torch.arange(length)
    mask = positions >= length - lengths if left else positions < lengths
    ids = torch.full(mask.shape, pad, dtype=torch.int64)
    ids[mask] = torch.from_numpy(np.concatenate([tokens for _, tokens in items]).astype(np.int64, copy=False))
    return Batch(ids, mask.long(), [index for index, _ in items])
