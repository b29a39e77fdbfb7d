"""Batches of documents of like length, padded, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

DOCUMENTS_SORTED = 1024  # are held in memory at a time, whatever the size of the corpus


@dataclass(frozen=True)
class Batch:
    """input_ids and attention_mask (documents, length) int64, mask 0 where padded; order: their places in the corpus."""

    input_ids: Tensor
    attention_mask: Tensor
    order: list[int]

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())


def batches(
    documents: Iterable[list[int]], batch_tokens: int, pad: int = 0, *, left: bool = False, more: int = 0
) -> Iterator[Batch]:
    """Batches of at most `batch_tokens` tokens, padding included (one document at least), longest first.

    `pad` fills what the mask leaves out, on the right or on the `left`; any id will do. `more`: tokens that each document is to
    get and that count too.
    """
    numbered = enumerate(documents)
    while window := list(islice(numbered, DOCUMENTS_SORTED)):
        window.sort(key=lambda item: -len(item[1]))
        start = 0
        while start < len(window):
            length = len(window[start][1])
            stop = start + max(1, batch_tokens // (length + more))
            yield _padded(window[start:stop], length, pad, left)
            start = stop


def _padded(items: list[tuple[int, list[int]]], length: int, pad: int, left: bool) -> Batch:
    ids = torch.full((len(items), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (_, tokens) in enumerate(items):
        place = slice(length - len(tokens), None) if left else slice(len(tokens))
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    return Batch(ids, mask, [number for number, _ in items])
