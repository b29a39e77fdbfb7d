"""Tokenised beside the forward, or by this process: the same documents in the same order."""

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


def documents(source, workers: int, **options) -> list:
    tokenisation = Tokenisation(TOKENIZER, 5, **options)
    return list(stream(chunks("fr", shards_of(source), tokenisation.fields, ChunkSize(6, 999)), tokenisation, workers))


@pytest.mark.parametrize("options", [{}, {"pack": 4}, {"form": "pairs"}], ids=str)
def test_workers_give_what_this_process_gives(options):
    source = [(text, " " + text) for text in TEXTS] if options.get("form") == "pairs" else TEXTS
    alone = documents(source, 0, **options)
    assert [chunk.start.record for chunk, _ in alone] == [0, 6, 12, 18, 24, 30, 36, 0] and alone[-1][0].last
    for workers in (1, 2):
        for (chunk, one), (again, other) in zip(alone, documents(source, workers, **options), strict=True):
            assert chunk == again and one.report == other.report
            for name in ("tokens", "lengths", "places"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_a_chunk_is_tokenised_as_its_texts_are():
    _, part = documents(TEXTS, 0)[1]
    kept = [text for text in TEXTS[6:12] if text]
    assert [one.tolist() for one in part] == [TOKENIZER(text)["input_ids"][:5] for text in kept]
    assert (part.report.texts, part.report.empty, part.report.cut) == (
        6,
        1,
        sum(len(text.split()) > 4 for text in kept),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_what_goes_wrong_in_reading_is_raised_here(workers):
    def broken():
        yield from TEXTS
        raise OSError("the line was cut")

    with pytest.raises(CorpusError, match="generator cannot be read: the line was cut"):
        documents(broken(), workers)
    with pytest.raises(CorpusError, match="row 41"):
        documents([*TEXTS, 3], workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_random_is_drawn(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    documents(TEXTS, workers)
    assert torch.equal(torch.get_rng_state(), before)


def some_chunks():
    return chunks("fr", shards_of(TEXTS), ("text",), ChunkSize(6, 999))


def running() -> set[str]:
    """Processes of this one that tokenise."""
    found = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread or a process that has just ended
            for child in (task / "children").read_text().split():
                if b"pymultiling.data.tokenising_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(child)
    return found


def test_workers_end_with_the_stream():
    before = running()
    streamed = stream(some_chunks(), Tokenisation(TOKENIZER, 5), 2)
    next(streamed)
    assert len(running() - before) == 2
    streamed.close()
    assert running() == before
    documents(TEXTS, 1)
    assert running() == before


def test_a_worker_imports_from_where_this_process_does(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert len(documents(TEXTS, 1)) == 8


def test_a_worker_that_is_gone_is_said():
    before = running()
    streamed = stream(some_chunks(), Tokenisation(TOKENIZER, 5), 1)
    next(streamed)
    (child,) = running() - before
    os.kill(int(child), signal.SIGKILL)
    with pytest.raises(CorpusError, match="a process that tokenises has ended .exit status -9.; with workers=0"):
        list(streamed)


def test_a_worker_that_cannot_begin_is_said(monkeypatch):
    monkeypatch.setattr("sys.executable", "false")
    tokenizer = tiny_tokenizer()
    tokenizer.padding = "x" * 1_000_000  # more than a pipe holds
    with pytest.raises(CorpusError, match="a process that tokenises has ended .exit status 1.; with workers=0"):
        list(stream(some_chunks(), Tokenisation(tokenizer, 5), 1))


class Broken:
    """A tokenizer that fails in every process but this one."""

    def __init__(self):
        self.at_home = os.getpid()

    def __call__(self, *texts, **options):
        if os.getpid() != self.at_home:
            raise ValueError("no vocabulary")
        return TOKENIZER(*texts, **options)


def test_what_goes_wrong_in_a_worker_is_raised_here():
    streamed = stream(some_chunks(), Tokenisation(Broken(), 5), 1)
    next(streamed)  # which this process tokenises, while the others begin
    with pytest.raises(CorpusError, match="ValueError in tokenising: no vocabulary"):
        next(streamed)


def test_a_tokenizer_that_stays_here(monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.own = lambda: None  # which cannot be pickled
    for change in (lambda: None, lambda: monkeypatch.setattr(type(tokenizer), "__module__", "__main__")):
        change()
        with pytest.warns(UserWarning, match="cannot be sent to another process"):
            found = list(stream(some_chunks(), Tokenisation(tokenizer, 5), 1))
        assert [one.lengths.tolist() for _, one in found] == [one.lengths.tolist() for _, one in documents(TEXTS, 0)]
