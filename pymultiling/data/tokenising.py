"""Tokenisation of records into documents, in this process or in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pymultiling.data.chat import ChatFrame
from pymultiling.data.corpora import PAIR, TEXT, CorpusReport, select_pairs, select_sentences, select_texts
from pymultiling.data.documents import (
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
        documents = list(self._tokenise(records, report))
        lengths = np.array([len(tokens) for tokens, _ in documents], dtype=np.int64)
        token_ids = chain.from_iterable(tokens for tokens, _ in documents)
        tokens = np.fromiter(token_ids, dtype=np.int32, count=int(lengths.sum()))
        positions = np.array([position for _, position in documents], dtype=np.int64)
        return Documents(tokens, lengths, positions, report)

    def _tokenise(self, records: list[Record], report: CorpusReport) -> Iterator[tuple[list[int], int]]:
        if self.form == "pairs":
            return tokenise_pairs(select_pairs(records, report), self.tokenizer, self.max_length, report, self.chat)
        if self.form == "sentences":
            return tokenise_sentences(select_sentences(records, report), self.tokenizer, self.max_length, report)
        texts, options = select_texts(records, report), (self.tokenizer, self.max_length, report, self.pack)
        if self.form == "predicted":
            return tokenise_predicted(texts, *options, self.chat)
        if self.chat is not None:
            return tokenise_messages(texts, *options, self.chat)
        return ((tokens, 0) for tokens in tokenise(texts, *options, is_open=self.form == "prompts"))
