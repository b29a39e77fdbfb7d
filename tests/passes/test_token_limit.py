"""tokens=N takes the first documents of each corpus, whatever its files, the processes and the interruptions are."""

import logging

import pytest
import torch

import pymultiling as pml
from pymultiling.data import chunks, streams
from pymultiling.data.chat import chat_frame
from pymultiling.data.token_limit import TokenLimit
from pymultiling.data.tokenising import Tokenisation
from pymultiling.methods import plnd
from pymultiling.passes import corpus_pass
from tests.data.test_chat import chat_tokenizer
from tests.passes.test_corpus_pass import CORPORA, MODEL, Killed, assert_same, count, detect, kill_after
from tests.support.tiny_text import write_text

LENGTHS = [9, 4, 7, 12, 3, 8]  # words of the texts, which repeat seven times; each document has <s> too
TOTAL = 7 * (sum(LENGTHS) + len(LENGTHS))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Makes chunks of a few texts."""
    monkeypatch.setattr(chunks, "LEAST", 1)
    monkeypatch.setattr(chunks, "TEXTS", 1)
    monkeypatch.setattr(chunks, "CHARACTERS", 1)


def first_texts(number: int) -> dict[str, list[str]]:
    return {language: lines[:number] for language, lines in CORPORA.items()}


def texts_within(tokens: int) -> int:
    """Returns how many of the first texts have at most this many tokens."""
    total = number = 0
    while number < 42 and total + LENGTHS[number % 6] + 1 <= tokens:
        total += LENGTHS[number % 6] + 1
        number += 1
    return number


@pytest.mark.parametrize(
    "tokens, workers",
    [(10, 0), (11, 0), (48, 0), (49, 0), (50, 0), (130, 0), (130, 1), (TOTAL - 1, 0), (TOTAL, 0), (TOTAL + 1, 0)],
)
def test_the_first_documents_are_taken(tokens, workers):
    """The result and the reports are those of a corpus that ends there."""
    result = detect(tokens=tokens, workers=workers)
    assert_same(result, detect(first_texts(texts_within(tokens))), exact=False)
    assert all(statistics.tokens <= tokens for statistics in result.statistics.values())


@pytest.mark.parametrize("run, options", [(detect, {"pack": 8}), (count, {"pack": 8}), (count, {"positions": "last"})])
def test_packed_documents_and_positions(run, options):
    whole, limited = run(**options), run(tokens=50, **options)
    statistics = (lambda result: result.statistics) if run is detect else dict
    for language, values in statistics(limited).items():
        if "pack" in options:
            assert values.tokens == 48 < statistics(whole)[language].tokens
        else:
            assert values.tokens == texts_within(50)
        assert limited.corpora[language].texts < 10


def test_tokens_of_the_texts_count_in_a_chat_template():
    tokenizer = chat_tokenizer()
    options = {"progress": False, "batch_tokens": 20, "workers": 0, "chat_template": True}
    counts = pml.activations(MODEL, tokenizer, CORPORA, tokens=9 + 4 + 7 + 11, **options)
    truth = pml.activations(MODEL, tokenizer, first_texts(3), **options)
    for language, expected in truth.items():
        assert counts[language].tokens == expected.tokens == 20
        assert torch.equal(counts[language].active, expected.active)


def test_perplexity_counts_predicted_tokens():
    options = {"progress": False, "batch_tokens": 20, "workers": 0}
    limited = pml.perplexity(MODEL, chat_tokenizer(), CORPORA["fr"], tokens=9 + 4, **options)
    assert limited == pml.perplexity(MODEL, chat_tokenizer(), CORPORA["fr"][:2], **options)
    pairs = [("w3 w4", "w5 w6"), ("w12", "w13"), ("w3", "w4")]
    responses = pml.activations(MODEL, chat_tokenizer(), {"x": pairs}, positions="response", tokens=3, **options)
    assert responses["x"].tokens == 3


@pytest.mark.parametrize("form", ["texts", "prompts", "predicted", "pairs"])
@pytest.mark.parametrize("pack", [None, 6])
def test_the_first_documents_and_their_report_are_those_of_the_texts_alone(form, pack):
    """Of the texts that they need: one is blank and one is cut."""
    records = [("w3 w4",), (" ",), ("w5 " * 9,), ("w6 w11 w12",), ("w3 " * 5,)]
    if form == "pairs":
        records = [("w9", *record) for record in records]
    for chat in (None, chat_frame(chat_tokenizer())):
        tokenisation = Tokenisation(chat_tokenizer(), 9, pack if form != "pairs" else None, form, chat)
        for needed in (1, 3, 4, 5):
            expected = tokenisation(records[:needed])
            found = tokenisation.first(records, expected.counted)
            assert [list(x) for x in found] == [list(x) for x in expected]
            assert found.positions.tolist() == expected.positions.tolist()
            if pack is None or form == "predicted":
                assert found.report == expected.report


@pytest.mark.parametrize("batches", [0, 1, 5, 9, 12, 14])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, batches):
    options = dict(tokens=130, checkpoint=tmp_path / "state", checkpoint_documents=1)
    expected = detect(tokens=130)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, batches)
        with pytest.raises(Killed):
            detect(**options)
    assert_same(detect(**options), expected)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, 0)
        assert_same(detect(**options), expected)  # nothing is measured again


def test_a_checkpoint_belongs_to_one_limit(tmp_path):
    detect(tokens=130, checkpoint=tmp_path)
    for other in (None, 131):
        with pytest.raises(pml.CheckpointError, match=f"its tokens was 130, now it is {other}"):
            detect(tokens=other, checkpoint=tmp_path)


def test_a_changed_corpus_is_noticed_after_the_limit(tmp_path):
    file = write_text(tmp_path / "fr.txt", CORPORA["fr"])
    options = dict(tokens=30, checkpoint=tmp_path / "state")
    detect({"fr": file}, **options)
    write_text(file, [*CORPORA["fr"], "w3"])
    with pytest.raises(pml.CheckpointError, match=r"differs from the corpus of the checkpoint: .*fr.txt changed"):
        detect({"fr": file}, **options)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2, 6])
def test_processes_measure_the_same_documents_together(processes, parts, tmp_path):
    """Each document is measured by one process, and all processes end a corpus at the same place."""
    size = -(-42 // parts)
    for part in range(parts):
        write_text(tmp_path / f"fr-{part}.txt", CORPORA["fr"][part * size : (part + 1) * size])
    shards = {"fr": corpus_pass.shards_of(str(tmp_path / "fr-*.txt"))}
    measured, ends = [], []
    for rank in range(processes):
        for chunk, documents in limited_stream(shards, rank, processes, tokens=130):
            if chunk.last:
                ends.append(chunk.start)
            else:
                measured += [(chunk.start.shard, chunk.start.record, len(documents.lengths))]
    assert len(ends) == processes and all(end == ends[0] for end in ends)
    assert len(set(measured)) == len(measured)
    assert sum(documents for *_, documents in measured) == texts_within(130) and ends[0].tokens <= 130


def limited_stream(shards, rank, processes, tokens):
    tokenisation = Tokenisation(chat_tokenizer(), 32)
    limit = TokenLimit(tokens, tokenisation, shards, {"fr": chunks.Share(rank, processes)})
    source = limit.until_full(chunks.chunks("fr", shards["fr"], ("text",), chunks.ChunkSize.of(4)))
    return limit.take(streams.stream(source, tokenisation, 0))


def test_reading_stops_soon_after_the_limit():
    read = []

    def lines():
        for line in CORPORA["fr"]:
            read.append(line)
            yield line

    detect({"fr": lines(), "de": CORPORA["de"]}, tokens=30)
    assert len(read) < 20


def test_says_how_many_tokens_were_taken_where_a_document_may_have_been_left(caplog):
    with caplog.at_level(logging.INFO, "pymultiling"):
        detect({"fr": CORPORA["fr"], "de": CORPORA["de"][:2]}, tokens=50, max_length=16)
    assert [record.message for record in caplog.records] == [
        "fr: 49 tokens were taken, of at most 50 (tokens, --tokens)"
    ]


@pytest.mark.parametrize("tokens, last", [(30, 23 / 30), (1000, 1.0)])
def test_progress_is_the_fraction_of_the_limit_or_of_the_corpus(monkeypatch, tokens, last):
    done = []
    monkeypatch.setattr(corpus_pass.RemainingTime, "update", lambda self, fraction: done.append(fraction) or "")
    detect({"fr": CORPORA["fr"][:6]}, tokens=tokens)
    assert done == sorted(done) and 0 < done[0] < 1 and done[-1] == pytest.approx(last)


def test_a_limit_below_the_first_document_is_an_error_and_so_is_0():
    with pytest.raises(pml.CorpusError, match="corpus 'fr': its first document has more than 5 tokens"):
        detect(tokens=5)
    with pytest.raises(ValueError, match="tokens must be at least 1, or None for all, got 0"):
        detect(tokens=0)
