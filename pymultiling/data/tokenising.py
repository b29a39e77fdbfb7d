"""From texts to documents; in this process or in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pymultiling.data.corpora import PAIR, TEXT, CorpusReport, pairs_of, sentences_of, texts_of
from pymultiling.data.documents import tokenise, tokenise_pairs, tokenise_sentences
from pymultiling.data.rows import Row


@dataclass(frozen=True)
class Documents:
    """The documents of some rows.

    Attributes:
        tokens: int32, of all documents one after the other.
        lengths: how many are each document's.
        places: int64, one a document; what they mean depends on the form of `Tokenisation`.
        report: what became of the texts.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    report: CorpusReport

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each document's tokens."""
        yield from np.split(self.tokens, self.lengths.cumsum()[:-1]) if len(self.lengths) else ()


@dataclass(frozen=True)
class Tokenisation:
    """How rows become documents.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        max_length, pack: as in `tokenise`.
        form: what a row is, and what `Documents.places` holds:
            "texts": a text; places are 0.
            "pairs": a prompt and its response; the place of the response's first token in the document.
            "sentences": a sentence, kept also with a single token; the place of the sentence among the rows.
    """

    tokenizer: object
    max_length: int
    pack: int | None = None
    form: str = "texts"

    @property
    def fields(self) -> tuple[str, ...]:
        """Of the rows that are read."""
        return PAIR if self.form == "pairs" else TEXT

    def __call__(self, rows: list[Row]) -> Documents:
        report = CorpusReport()
        documents = list(self._documents(rows, report))
        lengths = np.array([len(tokens) for tokens, _ in documents], dtype=np.int64)
        tokens = chain.from_iterable(tokens for tokens, _ in documents)
        tokens = np.fromiter(tokens, dtype=np.int32, count=int(lengths.sum()))
        places = np.array([place for _, place in documents], dtype=np.int64)
        return Documents(tokens, lengths, places, report)

    def _documents(self, rows: list[Row], report: CorpusReport) -> Iterator[tuple[list[int], int]]:
        if self.form == "pairs":
            return tokenise_pairs(pairs_of(rows, report), self.tokenizer, self.max_length, report)
        if self.form == "sentences":
            return tokenise_sentences(sentences_of(rows, report), self.tokenizer, self.max_length, report)
        texts = texts_of(rows, report)
        return ((tokens, 0) for tokens in tokenise(texts, self.tokenizer, self.max_length, report, self.pack))
