"""Documents of corpora as a pass needs them: read here, tokenised in worker processes beside the forward."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pymultiling.data.chunks import Chunk
from pymultiling.data.corpora import PAIR, TEXT, CorpusReport, pairs_of, texts_of
from pymultiling.data.documents import tokenise, tokenise_pairs

AHEAD = 2  # chunks that a worker holds ready
PR_SET_PDEATHSIG = 1  # Linux: a process that is killed leaves no workers behind


@dataclass(frozen=True)
class Documents:
    """The documents of a chunk.

    Attributes:
        chunk: without its rows.
        tokens: int32, of all documents one after the other.
        lengths: how many are each document's.
        starts: the place of each document's first token that can count.
        report: what became of the texts.
    """

    chunk: Chunk
    tokens: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray
    report: CorpusReport

    def __iter__(self) -> Iterator[np.ndarray]:
        """Each document's tokens."""
        yield from np.split(self.tokens, self.lengths.cumsum()[:-1]) if len(self.lengths) else ()


class Tokenising(Dataset):
    """From a chunk to its documents; the "index" that a DataLoader hands to a worker is the chunk itself."""

    def __init__(self, tokenizer, max_length: int, pack: int | None = None, pairs: bool = False):
        self.tokenizer, self.max_length, self.pack, self.pairs = tokenizer, max_length, pack, pairs
        self.fields = PAIR if pairs else TEXT

    def __getitem__(self, chunk: Chunk) -> Documents:
        report = CorpusReport()
        if self.pairs:
            pairs = pairs_of(chunk.rows, report)
            found = list(tokenise_pairs(pairs, self.tokenizer, self.max_length, report))
        else:
            texts = texts_of(chunk.rows, report)
            found = [(one, 0) for one in tokenise(texts, self.tokenizer, self.max_length, report, self.pack)]
        lengths = np.array([len(one) for one, _ in found], dtype=np.int64)
        tokens = np.fromiter(chain.from_iterable(one for one, _ in found), dtype=np.int32, count=int(lengths.sum()))
        starts = np.array([start for _, start in found], dtype=np.int64)
        return Documents(replace(chunk, rows=[]), tokens, lengths, starts, report)


def stream(chunks: Iterable[Chunk], tokenising: Tokenising, workers: int) -> Iterator[Documents]:
    """The chunks' documents, in order.

    Reading is this process's, so that sources need not be copied; with `workers` others tokenise what comes next. They are
    forked, which is safe on Linux only; elsewhere, and for a single chunk, this process tokenises. What goes wrong in reading is
    raised when all that was read before has been given.
    """
    failure: list[Exception] = []
    readable = _until_failure(chunks, failure)
    first = list(islice(readable, 3))  # a chunk with rows, and one that says that the corpus has ended
    workers = workers if len(first) == 3 and sys.platform == "linux" else 0
    options = dict(batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())  # the caller's is left alone
    if workers:
        options.update(
            num_workers=workers, prefetch_factor=AHEAD, multiprocessing_context="fork", worker_init_fn=_alone
        )
    yield from DataLoader(tokenising, sampler=chain(first, readable), **options)
    if failure:
        raise failure[0]


def _until_failure(chunks: Iterable[Chunk], failure: list[Exception]) -> Iterator[Chunk]:
    try:
        yield from chunks
    except Exception as error:
        failure.append(error)


def _as_it_is(documents: Documents) -> Documents:
    return documents


def _alone(worker: int) -> None:
    """A forked tokenizer runs in one thread, for those of its parent are not there, and no longer than its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
