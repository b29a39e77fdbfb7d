"""Batches of documents of like length, padded, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

DOCUMENTS_SORTED = 1024


@dataclass(frozen=True)
class Batch:
    """input_ids and attention_mask (documents, length) int64, mask 0 where padded; order: their places in the corpus."""

    input_ids: Tensor
    attention_mask: Tensor
    order: list[int]

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with half of the documents each, no longer than their own longest; padded on the right as this one."""
        middle = len(self.order) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Batch:
        mask = self.attention_mask[rows]
        length = int(mask.sum(1).max())
        return Batch(self.input_ids[rows, :length], mask[:, :length], self.order[rows])


def make_batches(
    documents: Iterable[Sequence[int]],
    batch_tokens: int,
    pad: int = 0,
    *,
    left: bool = False,
    extra_tokens: int = 0,
    window: int = DOCUMENTS_SORTED,
) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding included (one document at least), longest first.

    `pad` fills what the mask leaves out, on the right or on the `left`; any id will do. `extra_tokens`: tokens that each document is to
    get and that count too. So many documents, a `window`, are held and sorted at a time.
    """
    numbered = enumerate(documents)
    while some := list(islice(numbered, window)):
        some.sort(key=lambda item: -len(item[1]))
        start = 0
        while start < len(some):
            length = len(some[start][1])
            stop = start + max(1, batch_tokens // (length + extra_tokens))
            yield _padded(some[start:stop], length, pad, left)
            start = stop


def _padded(items: list[tuple[int, Sequence[int]]], length: int, pad: int, left: bool) -> Batch:
    lengths = torch.tensor([len(tokens) for _, tokens in items])[:, None]
    place = torch.arange(length)
    mask = place >= length - lengths if left else place < lengths
    ids = torch.full(mask.shape, pad, dtype=torch.int64)
    ids[mask] = torch.from_numpy(np.concatenate([tokens for _, tokens in items]).astype(np.int64, copy=False))
    return Batch(ids, mask.long(), [number for number, _ in items])
