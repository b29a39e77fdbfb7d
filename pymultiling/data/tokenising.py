"""Tokenisation of records into documents, in this process or in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pymultiling.data.chat import ChatFrame
from pymultiling.data.corpora import PAIR, TEXT, CorpusReport, select_pairs, select_sentences, select_texts
from pymultiling.data.documents import (
    TEXTS_AT_A_TIME,
    tokenise,
    tokenise_messages,
    tokenise_pairs,
    tokenise_predicted,
    tokenise_sentences,
)
from pymultiling.data.rows import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Form: TypeAlias = Literal["texts", "prompts", "predicted", "pairs", "sentences"]


@dataclass(frozen=True)
class Documents:
    """The documents of some records. Iterating over it yields the tokens of each document.

    Attributes:
        tokens: (tokens,) int32, of all documents one after the other.
        lengths: (documents,) int64, number of tokens of each document.
        positions: (documents,) int64. Their meaning depends on the form of `Tokenisation`.
        report: what was left out or changed.
    """

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    report: CorpusReport

    @classmethod
    def of(cls, documents: list[tuple[list[int], int]], report: CorpusReport) -> Documents:
        """Makes them of the tokens and the position of each document."""
        lengths = np.array([len(tokens) for tokens, _ in documents], dtype=np.int64)
        token_ids = chain.from_iterable(tokens for tokens, _ in documents)
        tokens = np.fromiter(token_ids, dtype=np.int32, count=int(lengths.sum()))
        positions = np.array([position for _, position in documents], dtype=np.int64)
        return cls(tokens, lengths, positions, report)

    @property
    def counted(self) -> int:
        """Number of tokens that count: those from its position on of each document. Of sentences it has no meaning."""
        return int(np.maximum(self.lengths - self.positions, 0).sum())

    def __iter__(self) -> Iterator[npt.NDArray[np.int32]]:
        yield from np.split(self.tokens, self.lengths.cumsum()[:-1]) if len(self.lengths) else ()


@dataclass(frozen=True)
class Tokenisation:
    """How records become documents.

    Attributes:
        tokenizer: a Hugging Face tokenizer.
        max_length: longer documents are cut to this many tokens.
        pack: number of tokens of packed documents, or None: each text is a document. Predicted texts are not joined.
        form: what a record is, and what `Documents.positions` holds:
            "texts": a text. Positions are 0 and have no meaning.
            "prompts": a text without the tokens that the tokenizer puts after it. Positions are 0.
            "predicted": a text whose tokens are predicted. Positions are the index of the first one that counts.
            "pairs": a prompt and its response. Positions are the index of the response's first token in the document.
            "sentences": a sentence, which may have a single token. Positions are the index of the record.
        chat: the chat template in which each text is a message of the user, or None: texts stand alone. With it the
            positions of "texts" and "prompts" are the index of the first token of the text. There are no sentences.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    pack: int | None = None
    form: Form = "texts"
    chat: ChatFrame | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a record that are read."""
        return PAIR if self.form == "pairs" else TEXT

    def __call__(self, records: list[Record]) -> Documents:
        """Returns the documents of the records."""
        report = CorpusReport()
        return Documents.of(list(self._tokenise(records, report)), report)

    def first(self, records: list[Record], tokens: int) -> Documents:
        """Returns the first documents of the records, as many as have at most `tokens` tokens that count.

        The report is that of the records up to the last of these documents.
        """
        report, kept = CorpusReport(), list[tuple[list[int], int]]()
        documents = self._tokenise(records, report, at_a_time=1)  # so that the report is of what was needed
        while True:
            before = replace(report)
            document, position = next(documents, ([], 0))
            tokens -= max(0, len(document) - position)
            if tokens < 0 or not document:
                return Documents.of(kept, before)
            kept.append((document, position))

    def _tokenise(
        self, records: list[Record], report: CorpusReport, at_a_time: int = TEXTS_AT_A_TIME
    ) -> Iterator[tuple[list[int], int]]:
        if self.form == "pairs":
            pairs = select_pairs(records, report)
            return tokenise_pairs(pairs, self.tokenizer, self.max_length, report, self.chat, at_a_time=at_a_time)
        if self.form == "sentences":
            return tokenise_sentences(select_sentences(records, report), self.tokenizer, self.max_length, report)
        texts, options = select_texts(records, report), (self.tokenizer, self.max_length, report, self.pack)
        if self.form == "predicted":
            return tokenise_predicted(texts, *options, self.chat, at_a_time=at_a_time)
        if self.chat is not None:
            return tokenise_messages(texts, *options, self.chat, at_a_time=at_a_time)
        documents = tokenise(texts, *options, is_open=self.form == "prompts", at_a_time=at_a_time)
        return ((tokens, 0) for tokens in documents)
