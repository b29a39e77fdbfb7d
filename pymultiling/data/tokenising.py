"""From texts to documents; in this process or in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pymultiling.data.corpora import PAIR, TEXT, CorpusReport, pairs_of, texts_of
from pymultiling.data.documents import tokenise, tokenise_pairs
from pymultiling.data.rows import Row


@dataclass(frozen=True)
class Documents:
    """The documents of some texts.

    Attributes:
        tokens: int32, of all documents one after the other.
        lengths: how many are each document's.
        starts: the place of each document's first token that can count.
        report: what became of the texts.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    report: CorpusReport

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each document's tokens."""
        yield from np.split(self.tokens, self.lengths.cumsum()[:-1]) if len(self.lengths) else ()


@dataclass(frozen=True)
class Tokenising:
    """How texts become documents.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        max_length, pack: as in `tokenise`.
        pairs: the texts are prompts and responses.
    """

    tokenizer: object
    max_length: int
    pack: int | None = None
    pairs: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the rows that are read."""
        return PAIR if self.pairs else TEXT

    def __call__(self, rows: list[Row]) -> Documents:
        report = CorpusReport()
        if self.pairs:
            pairs = pairs_of(rows, report)
            found = list(tokenise_pairs(pairs, self.tokenizer, self.max_length, report))
        else:
            texts = texts_of(rows, report)
            found = [(one, 0) for one in tokenise(texts, self.tokenizer, self.max_length, report, self.pack)]
        lengths = np.array([len(one) for one, _ in found], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(one for one, _ in found), dtype=np.int32, count=int(lengths.sum()))
        starts = np.array([start for _, start in found], dtype=np.int64)
        return Documents(tokens, lengths, starts, report)
