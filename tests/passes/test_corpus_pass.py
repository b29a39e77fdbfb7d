"""A pass that is interrupted, runs out of memory or meets bad input gives the result of an undisturbed one."""

import json
import warnings
from functools import cache

import pytest
import torch

import pymultiling as pml
from pymultiling.data import chunks
from pymultiling.data.batches import Batch
from pymultiling.errors import NonFiniteActivations
from pymultiling.methods import plnd
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.probes.activation_counts import ActivationProbe
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer, write_text

datasets = pytest.importorskip("datasets")
MODEL, TOKENIZER = tiny_model("llama"), tiny_tokenizer()
CORPORA = {language: texts(language, (9, 4, 7, 12, 3, 8) * 7) for language in LANGUAGES}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Makes chunks of as many texts as a batch has tokens: of 20 in this file, so that a corpus has several."""
    monkeypatch.setattr(chunks, "LEAST", 1)
    monkeypatch.setattr(chunks, "TEXTS", 1)
    monkeypatch.setattr(chunks, "CHARACTERS", 99)


class Killed(BaseException):
    """Ends a pass like SIGKILL: no code catches it, and no checkpoint is written after it."""


def detect(corpora=CORPORA, model=MODEL, **options) -> pml.Detection:
    """Runs pml.detect with small batches in this process."""
    return pml.detect(model, TOKENIZER, corpora, **{"progress": False, "batch_tokens": 20, "workers": 0, **options})


def count(corpora=CORPORA, model=MODEL, **options) -> dict:
    return pml.activations(
        model, TOKENIZER, corpora, **{"progress": False, "batch_tokens": 20, "workers": 0, **options}
    )


def assert_same(result: pml.Detection, truth: pml.Detection, exact: bool = True) -> None:
    """Compares neurons, reports and votes, and if `exact` also the sums and minima bit for bit."""
    assert result.neurons == truth.neurons and result.corpora == truth.corpora
    for language, expected in truth.statistics.items():
        statistics = result.statistics[language]
        assert (statistics.documents, statistics.tokens) == (expected.documents, expected.tokens)
        for site in pml.SITES:
            assert torch.equal(statistics.votes[site], expected.votes[site])
            if exact:
                assert torch.equal(statistics.minimum[site], expected.minimum[site])
                assert torch.equal(statistics.sum[site], expected.sum[site])


def kill_after(monkeypatch, probe, batches: int) -> None:
    """Lets the probe raise Killed after this many batches, after which no checkpoint is written."""
    measure, calls = probe.launch, 0

    def kill(*arguments):
        nonlocal calls
        calls += 1
        if calls > batches:
            monkeypatch.setattr("pymultiling.passes.checkpoints.Checkpoints.write", lambda *_: None)
            raise Killed
        return measure(*arguments)

    monkeypatch.setattr(probe, "launch", kill)


def raising(error: Exception):
    """Returns a function that raises the error."""

    def measure(*_):
        raise error

    return measure


@cache
def truth(run):
    """Returns the result of an undisturbed run."""
    return run()


@pytest.mark.parametrize("batches", [0, 1, 4, 15, 16, 17, 33, 40])
@pytest.mark.parametrize("every", [1, 30])
def test_a_killed_run_resumes_to_the_same_result(tmp_path, batches, every):
    options = dict(checkpoint=tmp_path / "state", checkpoint_documents=every)
    expected = truth(detect)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, batches)
        with pytest.raises(Killed):
            detect(**options)
    measure = count_documents(plnd.ImportanceProbe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plnd.ImportanceProbe, "launch", measure)
        assert_same(detect(**options), expected)
        lost = sum(measure.documents) - sum(statistics.documents for statistics in expected.statistics.values())
        assert batches == 0 or -lost > 2 * (batches - 1) - every - 10  # at most one interval is measured again
        measure.documents.clear()
        assert_same(detect(**options), expected)
        assert measure.documents == []


def count_documents(probe):
    """Returns the probe's launch, with a list of the batches' numbers of documents as attribute."""
    original = probe.launch

    def measure(self, input_ids, *rest):
        measure.documents.append(len(input_ids))
        return original(self, input_ids, *rest)

    measure.documents = []
    return measure


@pytest.mark.parametrize("batches", [1, 17, 30])
def test_a_killed_run_resumes_to_the_same_counts(tmp_path, batches):
    options = dict(checkpoint=tmp_path / "state", checkpoint_documents=1, positions="last")
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, ActivationProbe, batches)
        with pytest.raises(Killed):
            count(**options)
    result, expected = count(**options), count(positions="last")
    assert result.corpora == expected.corpora
    for language, counts in expected.items():
        assert result[language].tokens == counts.tokens and torch.equal(result[language].active, counts.active)


def test_an_exception_writes_a_state_of_all_that_was_measured(tmp_path):
    """The interval is too long for any other state to be written."""
    options = dict(checkpoint=tmp_path / "state", checkpoint_seconds=1e9)
    measure = count_documents(plnd.ImportanceProbe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plnd.ImportanceProbe, "launch", measure)
        with pytest.raises(
            pml.CorpusError,
            match=r"corpus 'fr': record 30: .*, got int; what was measured before is in .*state: the same call resumes",
        ):
            detect({"fr": [*CORPORA["fr"][:29], 3]}, **options)
        before = list(measure.documents)
        measure.documents.clear()
        result = detect({"fr": CORPORA["fr"]}, **options)
    assert sum(before) > 0 and sum(before) + sum(measure.documents) == len(CORPORA["fr"])
    assert_same(result, detect({"fr": CORPORA["fr"]}))


def test_a_run_resumes_when_a_file_that_vanished_is_back(tmp_path):
    paths = [write_text(tmp_path / f"{number}.txt", CORPORA["fr"][7 * number : 7 * number + 7]) for number in range(6)]
    corpora, options = {"fr": f"{tmp_path}/*.txt"}, dict(checkpoint=tmp_path / "state")
    expected, measure = detect(corpora), plnd.ImportanceProbe.launch

    def vanishing(self, *arguments):
        paths[4].unlink(missing_ok=True)
        return measure(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plnd.ImportanceProbe, "launch", vanishing)
        with pytest.raises(pml.CorpusError, match=r"4.txt: no such file"):
            detect(corpora, **options)
    write_text(paths[4], CORPORA["fr"][28:35])
    assert_same(detect(corpora, **options), expected)


@pytest.mark.parametrize(
    "changed, words",
    [
        (dict(select=pml.TopK(ffn=0.3)), "measure was .*top"),
        (dict(sites="ffn"), "sites was .*q.* now it is .'ffn'"),
        (dict(max_length=5), "max_length was 64, now it is 5"),
        (dict(batch_tokens=21), "batch_tokens was 20, now it is 21"),
        (dict(pack=9), "pack was None, now it is 9"),
        (dict(model=tiny_model("llama", seed=1)), "model was"),
        (dict(corpora={"fr": CORPORA["fr"]}), r"corpora was \['fr', 'de'\], now it is \['fr'\]"),
        (
            dict(corpora={**CORPORA, "fr": ["w3 w4", *CORPORA["fr"][1:]]}),
            "corpus 'fr' differs from the corpus of the checkpoint",
        ),
    ],
    ids=lambda value: "",
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path, changed, words):
    options = dict(checkpoint=tmp_path / "state", max_length=64)
    detect(**options)
    with pytest.raises(pml.CheckpointError, match=words):
        detect(**{**options, **changed})
    assert_same(detect(**options), truth(detect))


@pytest.mark.parametrize("batches", [2, 12])
def test_texts_that_vanish_after_the_start_of_the_current_chunk_are_noticed(tmp_path, batches):
    for number in range(2):
        write_text(tmp_path / f"{number}.txt", CORPORA["fr"][21 * number : 21 * number + 21])
    corpora, options = {"fr": f"{tmp_path}/*.txt"}, dict(checkpoint=tmp_path / "state", checkpoint_documents=1)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, batches)
        with pytest.raises(Killed):
            detect(corpora, **options)
    states = [json.loads(path.read_text()) for path in (tmp_path / "state").rglob("*.json")]
    place = max(states, key=lambda state: (state["place"]["chunk"], state["batches"]))["place"]
    write_text(tmp_path / f"{place['shard']}.txt", CORPORA["fr"][21 * place["shard"] :][: place["row"]])
    with pytest.raises(pml.CheckpointError, match=r"part [12] after text .* changed"):
        detect(corpora, **options)


@pytest.mark.parametrize("batches", [2, 3, 30])
def test_a_text_that_changes_in_the_current_chunk_is_noticed(tmp_path, batches):
    options = dict(checkpoint=tmp_path / "state", checkpoint_documents=1)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, batches)
        with pytest.raises(Killed):
            detect(**options)
    language = "fr" if batches < 20 else "de"
    changed = {**CORPORA, language: [*CORPORA[language][:-1], "w3 w4"]}
    first = {**CORPORA, language: ["w3 w4", *CORPORA[language][1:]]}
    with pytest.raises(pml.CheckpointError, match=f"corpus '{language}' differs from the corpus of the checkpoint"):
        detect(first, **options)
    # The last text is in the third chunk, which was not read yet, and may change.
    assert detect(changed, **options).neurons == detect(changed).neurons


def test_another_stream_in_place_of_one_that_was_read_to_its_end_is_refused(tmp_path):
    def streamed_corpora(language: str) -> dict:
        """Returns corpora with a stream of a language's texts, from a file that it writes."""
        path = write_text(tmp_path / f"{language}.txt", CORPORA[language])
        return {"x": datasets.load_dataset("text", data_files=str(path), split="train", streaming=True)}

    expected = detect(streamed_corpora("fr"), checkpoint=tmp_path / "state")
    assert_same(detect(streamed_corpora("fr"), checkpoint=tmp_path / "state"), expected)
    with pytest.raises(pml.CheckpointError, match="corpus 'x' differs from the corpus of the checkpoint"):
        detect(streamed_corpora("de"), checkpoint=tmp_path / "state")


def test_the_first_record_of_every_file_is_checked_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "de.jsonl").write_text('{"content": "w3 w4"}\n')
    monkeypatch.setattr(plnd.ImportanceProbe, "launch", None)
    with pytest.raises(pml.CorpusError, match=r"corpus 'de': .*de.jsonl, line 1 has no field 'text', only content:"):
        detect({**CORPORA, "de": tmp_path / "de.jsonl"}, checkpoint=tmp_path / "state")


def test_a_new_file_of_a_pattern_is_refused(tmp_path):
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", CORPORA["fr"][7 * number : 7 * number + 7])
    corpora, options = {"fr": f"{tmp_path}/*.txt", "de": CORPORA["de"]}, dict(checkpoint=tmp_path / "state")
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, 20)
        with pytest.raises(Killed):
            detect(corpora, **options, checkpoint_documents=1)
    write_text(tmp_path / "3.txt", ["w3 w4 w5"])
    with pytest.raises(pml.CheckpointError, match=r"its corpus 'fr' was 3 parts, .* now it is 4 parts, "):
        detect(corpora, **options)


def test_a_batch_that_does_not_fit_in_memory_is_halved():
    expected, measure, sizes = truth(detect), plnd.ImportanceProbe.launch, []

    def narrow(self, input_ids, *rest):
        sizes.append(input_ids.numel())
        if input_ids.numel() > 12 and len(input_ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(self, input_ids, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plnd.ImportanceProbe, "launch", narrow)
        with pytest.warns(
            UserWarning, match="documents of up to .* tokens does not fit in memory: it is measured in halves"
        ):
            assert_same(detect(), expected, exact=False)
    assert sum(size > 12 for size in sizes if size != 13) <= 2  # later batches are halved without an attempt


def test_a_document_that_does_not_fit_in_memory_ends_the_run():
    for error in (torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory")):
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(plnd.ImportanceProbe, "launch", raising(error))
            with pytest.raises(type(error)):
                detect()


def test_a_document_in_a_half_is_named_by_its_number_in_the_batch():
    def measure(batch: Batch, _) -> int:
        if len(batch.order) > 1:
            raise MemoryError
        if batch.order == [3]:
            raise NonFiniteActivations("NaN", 0)
        return 0

    ids = torch.ones(5, 2, dtype=torch.int64)
    with pytest.warns(UserWarning, match="in halves"), pytest.raises(NonFiniteActivations) as raised:
        SplitOnOutOfMemory(measure)(Batch(ids, ids, [0, 1, 2, 3, 4]), torch.zeros(5))
    assert raised.value.document == 3


def test_weights_that_are_not_run_need_not_be_loaded(tmp_path):
    model = tiny_model("llama")
    model.lm_head = torch.nn.Linear(1, 1, device="meta")  # as if it were not loaded
    assert_same(detect(model=model, checkpoint=tmp_path / "state"), truth(detect))


def test_other_errors_are_not_taken_for_out_of_memory():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plnd.ImportanceProbe, "launch", raising(RuntimeError("shapes differ")))
        with pytest.raises(RuntimeError, match="shapes"):
            detect()


def test_progress_shows_speed_and_where_a_run_resumes(tmp_path, capsys):
    options = dict(checkpoint=tmp_path / "state", checkpoint_documents=1, progress=True)
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, plnd.ImportanceProbe, 12)
        with pytest.raises(Killed):
            detect(**options)
    capsys.readouterr()
    detect(**options)
    first, second = capsys.readouterr().err.splitlines()
    measured = int(first.removeprefix("fr: measuring (1 of 2, resumes after ").split()[0])
    assert measured > 20 and f" documents): {42 - measured} documents, " in first
    assert second.startswith("de: measuring (2 of 2): 42 documents, ")
    assert second.endswith(" tokens/s") and " documents/s, " in second
    detect(**options)
    assert capsys.readouterr().err.splitlines() == [
        f"{name}: 42 documents, from {options['checkpoint']}" for name in CORPORA
    ]


def test_options_out_of_range_are_refused():
    for options in (dict(workers=-1), dict(checkpoint_seconds=0), dict(checkpoint_documents=0)):
        with pytest.raises(ValueError, match=next(iter(options))):
            detect(**options)
