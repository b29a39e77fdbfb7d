"""The remaining time of a pass, on a clock that the test sets."""

import pytest

from pymultiling.data.shards import corpus_size, shards_of
from pymultiling.passes import remaining_time
from pymultiling.passes.remaining_time import RemainingTime
from tests.support.tiny_text import write_text


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(remaining_time.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def of(*sources, ended=None) -> RemainingTime:
    return RemainingTime([shards_of(source) for source in sources], ended or [False] * len(sources))


def test_counts_all_corpora_by_their_sizes(clock):
    remaining = of(["a"] * 10, ["b"] * 30)
    remaining.begin(0, resumes=False)
    clock(10)
    assert remaining.update(0.5) == "70 s left"  # 5 of 40 records took 10 s
    clock(10)
    assert remaining.update(1.0) == "60 s left"
    remaining.begin(1, resumes=False)
    clock(30)
    assert remaining.update(0.5) == "30 s left"
    assert remaining.update(1.0) == ""


def test_says_at_least_if_a_size_is_unknown(clock, tmp_path):
    remaining = of(["a"] * 10, iter("bc"), write_text(tmp_path / "fr.txt", ["d"] * 5))
    remaining.begin(0, resumes=False)
    clock(10)
    assert remaining.update(0.5) == "at least 10 s left"
    remaining.begin(1, resumes=False)
    clock(10)
    assert remaining.update(None) == ""
    remaining.begin(2, resumes=False)
    clock(20)
    assert remaining.update(0.25) == "60 s left"


def test_what_was_done_before_took_none_of_the_time(clock):
    remaining = of(["a"] * 10, ["b"] * 10, ended=[True, False])
    remaining.begin(1, resumes=True)
    clock(1000)  # reading what was measured before
    assert remaining.update(0.5) == ""
    clock(10)
    assert remaining.update(0.75) == "10 s left"


def test_files_of_one_format_have_one_unit(tmp_path):
    for name in ("a.txt", "b.txt.gz", "c.txt"):
        write_text(tmp_path / name, ["one", "two"])
    assert corpus_size(shards_of(tmp_path / "a.txt")) == ("bytes of .txt", 8)
    assert corpus_size(shards_of(f"{tmp_path}/*.txt")) == ("bytes of .txt", 16)
    assert corpus_size(shards_of(tmp_path / "b.txt.gz"))[0] == "bytes of .txt.gz"
    assert corpus_size(shards_of(["a", "b"])) == ("records", 2)
    assert corpus_size(shards_of(iter("ab"))) is None


def test_a_limit_of_tokens_is_the_size_of_every_corpus(clock):
    remaining = RemainingTime([shards_of(["a"] * 10), shards_of(iter("bc"))], [False, False], tokens=100)
    remaining.begin(0, resumes=False)
    clock(10)
    assert remaining.update(0.5) == "at most 30 s left"  # 50 of 200 tokens took 10 s
    assert remaining.end() == "at most 20 s left"  # the corpus has no more of them
