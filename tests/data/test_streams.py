"""Workers and this process give the same documents in the same order."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from pymultiling.data.chunks import ChunkSize, chunks
from pymultiling.data.shards import shards_of
from pymultiling.data.streams import stream
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError
from tests.support.tiny_text import WORDS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = [" ".join(WORDS[: number % 7]) for number in range(40)]


def tokenise_corpus(source, workers: int, **options) -> list:
    tokenisation = Tokenisation(TOKENIZER, 5, **options)
    return list(stream(chunks("fr", shards_of(source), tokenisation.fields, ChunkSize(6, 999)), tokenisation, workers))


@pytest.mark.parametrize("options", [{}, {"pack": 4}, {"form": "pairs"}], ids=str)
def test_workers_give_the_documents_of_this_process(options):
    source = [(text, " " + text) for text in TEXTS] if options.get("form") == "pairs" else TEXTS
    alone = tokenise_corpus(source, 0, **options)
    assert [chunk.start.record for chunk, _ in alone] == [0, 6, 12, 18, 24, 30, 36, 0] and alone[-1][0].last
    for workers in (1, 2):
        in_workers = tokenise_corpus(source, workers, **options)
        for (chunk, expected), (same_chunk, documents) in zip(alone, in_workers, strict=True):
            assert chunk == same_chunk and expected.report == documents.report
            for name in ("tokens", "lengths", "positions"):
                assert np.array_equal(getattr(expected, name), getattr(documents, name)), name


def test_the_documents_of_a_chunk_are_those_of_its_texts():
    _, documents = tokenise_corpus(TEXTS, 0)[1]
    not_blank = [text for text in TEXTS[6:12] if text]
    assert [document.tolist() for document in documents] == [TOKENIZER(text)["input_ids"][:5] for text in not_blank]
    assert (documents.report.texts, documents.report.empty, documents.report.cut) == (
        6,
        1,
        sum(len(text.split()) > 4 for text in not_blank),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_in_reading_are_raised_here(workers):
    def broken():
        yield from TEXTS
        raise OSError("the line was cut")

    with pytest.raises(CorpusError, match=r"generator cannot be read \(the line was cut\)"):
        tokenise_corpus(broken(), workers)
    with pytest.raises(CorpusError, match="record 41"):
        tokenise_corpus([*TEXTS, 3], workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_random_numbers_are_drawn(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    tokenise_corpus(TEXTS, workers)
    assert torch.equal(torch.get_rng_state(), before)


def make_chunks():
    return chunks("fr", shards_of(TEXTS), ("text",), ChunkSize(6, 999))


def running_workers() -> set[str]:
    """Returns the ids of this process's workers."""
    worker_ids = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread or a process that has just ended
            for child in (task / "children").read_text().split():
                if b"pymultiling.data.tokenising_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    worker_ids.add(child)
    return worker_ids


def test_workers_end_with_the_stream():
    before = running_workers()
    streamed = stream(make_chunks(), Tokenisation(TOKENIZER, 5), 2)
    next(streamed)
    assert len(running_workers() - before) == 2
    streamed.close()
    assert running_workers() == before
    tokenise_corpus(TEXTS, 1)
    assert running_workers() == before


def test_a_worker_has_the_import_path_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert len(tokenise_corpus(TEXTS, 1)) == 8


def test_a_killed_worker_is_an_error():
    before = running_workers()
    streamed = stream(make_chunks(), Tokenisation(TOKENIZER, 5), 1)
    next(streamed)
    (child,) = running_workers() - before
    os.kill(int(child), signal.SIGKILL)
    with pytest.raises(CorpusError, match=r"a process that tokenises has ended .exit status -9.: give workers=0"):
        list(streamed)


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    tokenizer = tiny_tokenizer()
    tokenizer.padding = "x" * 1_000_000  # more than the buffer of a pipe holds
    with pytest.raises(CorpusError, match=r"a process that tokenises has ended .exit status 1.: give workers=0"):
        list(stream(make_chunks(), Tokenisation(tokenizer, 5), 1))


class Broken:
    """A tokenizer that fails in every process but this one."""

    def __init__(self):
        self.process = os.getpid()

    def __call__(self, *texts, **options):
        if os.getpid() != self.process:
            raise ValueError("no vocabulary")
        return TOKENIZER(*texts, **options)


def test_exceptions_in_a_worker_are_raised_here():
    streamed = stream(make_chunks(), Tokenisation(Broken(), 5), 1)
    next(streamed)  # tokenised by this process
    with pytest.raises(CorpusError, match=r"the tokenizer fails \(ValueError: no vocabulary\)"):
        next(streamed)


def test_a_tokenizer_that_cannot_be_pickled_is_used_in_this_process(monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.attribute = lambda: None  # lambdas cannot be pickled
    for change in (lambda: None, lambda: monkeypatch.setattr(type(tokenizer), "__module__", "__main__")):
        change()
        with pytest.warns(UserWarning, match="cannot be sent to another process"):
            streamed = list(stream(make_chunks(), Tokenisation(tokenizer, 5), 1))
        expected = tokenise_corpus(TEXTS, 0)
        assert [part.lengths.tolist() for _, part in streamed] == [part.lengths.tolist() for _, part in expected]
