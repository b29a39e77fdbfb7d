"""`reproduce`: a chain of the library's functions, cut to the time that there is, that goes on where it ended."""

import json
from pathlib import Path

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods.mwork import OWN
from pymultiling.methods.reproduction import detection_rounds, held_out, parts_of_tasks, rounds, task_scores
from pymultiling.methods.reproduction.detection_rounds import RULE
from pymultiling.methods.reproduction.rounds import PACK, text_blocks
from tests.support.command_line import assert_error_line, run
from tests.support.reproduction import assert_refused_before_loading, write_corpora
from tests.support.tiny_text import write_text

MODEL = Path(demo_model.__file__).parent / "model"
LANGUAGES = ("en", "de", "fr")
ROUNDS, ITEMS = 2, 6
METRIC = ["--metric", "likelihood", "--seeds", 1]


@pytest.fixture(autouse=True, scope="module")
def few_documents():
    """Few documents and items, so that a full run takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "ROUNDS", ROUNDS)
        patch.setattr(rounds, "ROUND", 2)
        patch.setattr(held_out, "HELDOUT", 5)
        patch.setattr(parts_of_tasks, "SEARCH", 3)
        yield


@pytest.fixture
def data(tmp_path) -> Path:
    return write_corpora(tmp_path / "data", LANGUAGES, ITEMS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The results of a run without a limit, and beside them its data."""
    folder = tmp_path_factory.mktemp("whole")
    assert reproduce(write_corpora(folder / "data", LANGUAGES, ITEMS), folder / "out") == 0
    return folder / "out"


def reproduce(data: Path, out: Path, *options: object, model: Path = MODEL) -> int:
    return run("reproduce", "plnd", "--model", model, "--data", data, "--out", out, *METRIC, "--quiet", *options)


def table(out: Path, name: str, **options) -> pandas.DataFrame:
    return pandas.read_csv(out / f"{name}.csv", **options)


def lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def assert_same_tables(first: Path, second: Path) -> None:
    """Detections bit for bit, everything else to rounding, since batches can be others."""
    for language in LANGUAGES:
        name = f"statistics/{language}.safetensors"
        assert (first / name).read_bytes() == (second / name).read_bytes()
    for name in ("perplexity", "table1", "mwork", "search", "intervals", "samples"):
        pandas.testing.assert_frame_equal(table(first, name), table(second, name), rtol=1e-4, atol=1e-5)


def test_the_tables_are_those_of_the_functions(whole):
    """detect in rounds is detect on the same documents; ablation_matrix, mwork_search and mwork give the tables."""
    out, data = whole, whole.with_name("data")
    model, tokenizer = demo_model.load()
    texts = demo_model.corpora()
    statistics = {}
    for number in range(ROUNDS):
        blocks = {name: text_blocks(texts[name], tokenizer)[number] for name in LANGUAGES}
        found = pml.detect(model, tokenizer, blocks, select=RULE, pack=PACK, workers=0, progress=False)
        for name, more in found.statistics.items():
            statistics[name] = statistics[name] + more if number else more
    detection = pml.Detection({name: RULE.select(value) for name, value in statistics.items()}, statistics)
    specific = detection.specific()
    saved = pml.Detection.load(out)
    assert [name for name in LANGUAGES if saved.neurons[name] != detection.neurons[name]] == []

    heldout = {name: lines(data / "corpora" / f"{name}.heldout.txt") for name in LANGUAGES}
    first = {name: of_language[:5] for name, of_language in heldout.items()}
    perplexities = pml.ablation_matrix(model, tokenizer, specific, first, random_draws=3, workers=0, progress=False)
    pandas.testing.assert_frame_equal(
        table(out, "perplexity", index_col="off"), perplexities, rtol=1e-4, check_names=False
    )

    task = pml.tasks.continuation(heldout).judged_by("likelihood")
    search = pml.mwork_search(model, tokenizer, specific, task.only(limit=3), "de")
    pandas.testing.assert_frame_equal(table(out, "search"), search.sweep, atol=1e-5)
    spans = {"understanding": search.understanding, "generation": search.generation}
    expected = pml.mwork(model, tokenizer, specific, task, seeds=(0,), progress=False, **spans)
    pandas.testing.assert_frame_equal(table(out, "mwork")[expected.columns], expected, atol=1e-5, check_dtype=False)
    scores = table(out, "table1").set_index(["language", "neurons"])["score"]
    evaluated = pml.tasks.evaluate(model, tokenizer, task, {"de": specific["de"]}, progress=False)
    assert scores["de", "none"] == pytest.approx(evaluated.loc["none", "de"], abs=1e-5)
    assert scores["de", OWN] == pytest.approx(evaluated.loc["de", "de"], abs=1e-5)


def test_says_what_is_other_than_in_the_paper(whole):
    out = whole
    record = json.loads((out / "run.json").read_text("utf-8"))
    assert any(sentence.startswith("model: 5 million parameters") for sentence in record["departures"])
    assert any("XQuAD" in sentence for sentence in record["left_out"])
    html = (out / "report.html").read_text("utf-8")
    assert "A paper&#x27;s tables" in html and "other than the paper, 1" in html


def test_a_short_run_takes_as_many_items_of_each_language_and_the_full_run_goes_on(
    data, whole, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert reproduce(data, out, "--minutes", 0.001) == 0
    samples = table(out, "samples").groupby("measured")["items"]
    assert (samples.min() == samples.max()).all() and samples.max()["perplexity, texts"] == 1
    assert not (out / "mwork.csv").exists() and (out / "report.html").exists()
    assert "continuation: no time was left" in capsys.readouterr().out

    calls = []
    detect = detection_rounds.detect
    monkeypatch.setattr(
        detection_rounds, "detect", lambda *args, **options: calls.append(1) or detect(*args, **options)
    )
    assert reproduce(data, out) == 0
    assert len(calls) == ROUNDS - 1  # the short run has measured one round
    printed = capsys.readouterr().out
    for text in ("Table 1 on continuation", "S-ATTN", "Sample sizes", "Other than in the paper", "needs training"):
        assert text in printed
    assert_same_tables(out, whole)
    # The values for the neurons that the short run had found are gone.
    assert sorted(path.name for path in (out / "measured").iterdir()) == sorted(
        path.name for path in (whole / "measured").iterdir()
    )


def test_an_interrupted_run_goes_on(data, whole, tmp_path, capsys, monkeypatch):
    """Nothing that was measured before is measured again."""
    out, calls = tmp_path / "out", []
    metric_values = task_scores.metric_values

    def interrupt(*args, **options):
        calls.append(1)
        if len(calls) == 4:  # the search has two calls, so this is the second of the task
            raise KeyboardInterrupt
        return metric_values(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(task_scores, "metric_values", interrupt)
        assert reproduce(data, out) == 130
    assert_error_line(capsys, f"run the same command again to continue from {out / 'measured'}")
    assert [path.name for path in out.iterdir()] == ["measured"]
    monkeypatch.setattr(detection_rounds, "detect", lambda *_, **__: pytest.fail("measured again"))
    monkeypatch.setattr(held_out, "log_likelihoods", lambda *_, **__: pytest.fail("measured again"))
    assert reproduce(data, out) == 0
    assert_same_tables(out, whole)


def test_what_another_run_measured_is_not_mixed_in(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert reproduce(data, out, "--minutes", 0.001) == 0
    assert reproduce(data, out, "--minutes", 0.001, "--languages", "de") == 1
    assert_error_line(capsys, "another languages", "give --out another folder")
    with (data / "corpora" / "de.heldout.txt").open("a") as file:
        file.write("noch ein Satz mehr\n")
    assert reproduce(data, out, "--minutes", 0.001) == 1
    assert_error_line(capsys, "another texts")


def missing_heldout(data: Path) -> None:
    (data / "corpora" / "de.heldout.txt").unlink()


def missing_english(data: Path) -> None:
    for file in (data / "corpora").glob("en.*"):
        file.unlink()


def only_english(data: Path) -> None:
    for file in (data / "corpora").glob("[df]*"):
        file.unlink()


def twice(data: Path) -> None:
    write_text(data / "corpora" / "de.jsonl", ["a b"])


def xquad_alone(data: Path) -> None:
    (data / "tasks").mkdir()
    (data / "tasks" / "xquad.jsonl").write_text("")


def no_field(data: Path) -> None:
    (data / "corpora" / "de.heldout.txt").unlink()
    (data / "corpora" / "de.heldout.jsonl").write_text('{"body": "a"}\n')


@pytest.mark.parametrize(
    "damage, options, messages",
    [
        (missing_heldout, ["--languages", "de"], ["has no corpora/de.heldout.txt", "are en, fr"]),
        (missing_english, [], ["has no corpora/en.txt"]),
        (only_english, [], ["has texts of en only"]),
        (twice, [], ["de.jsonl and", "de.txt.gz", "texts of the same language"]),
        (xquad_alone, [], ["xquad.jsonl needs", "tasks/xquad_contexts.jsonl"]),
        (no_field, [], ["de.heldout.jsonl", "'text'"]),
        (lambda _: None, ["--languages", "tr"], ["has no corpora/tr.txt"]),
        (lambda _: None, ["--metric", "bleu"], ["metric must be one of"]),
    ],
)
def test_says_what_is_missing_before_loading(data, tmp_path, capsys, monkeypatch, damage, options, messages):
    damage(data)
    out = tmp_path / "out"
    assert_refused_before_loading(lambda: reproduce(data, out, *options), out, messages, capsys, monkeypatch)


def test_a_missing_folder_and_an_unknown_paper_are_named(tmp_path, capsys):
    assert reproduce(tmp_path / "no", tmp_path / "out") == 1
    assert_error_line(capsys, "no such folder", "corpora/LANGUAGE.txt")
    assert run("reproduce", "lape", "--model", MODEL, "--data", tmp_path, "--out", tmp_path / "out") == 2
    assert_error_line(capsys, "'lape'", "plnd")


def test_the_tasks_of_the_folder_are_measured_in_the_languages_of_both(data, tmp_path, monkeypatch):
    """XQuAD in English and German: French has no items, so it is left out of the run."""
    (data / "tasks").mkdir()
    contexts = [{"lang": name, "context_id": "1", "context": "a b c"} for name in ("en", "de")]
    asked = [
        {"lang": name, "context_id": "1", "question": f"what {number}", "answers": [{"text": "b"}]}
        for name in ("en", "de")
        for number in range(3)
    ]
    for name, records in (("xquad", asked), ("xquad_contexts", contexts)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (data / "tasks" / f"{name}.jsonl").write_text(text)
    assert reproduce(data, tmp_path / "out") == 0
    scores = table(tmp_path / "out", "table1")
    assert set(scores["task"]) == {"XQuAD"} and set(scores["language"]) == {"de"}
    assert list(table(tmp_path / "out", "perplexity", index_col="off").columns) == ["en", "de"]
    ends = table(tmp_path / "out", "mwork").dropna(subset="delta_low")
    assert (ends["delta_low"] <= ends["delta"] + 1e-9).all() and (ends["delta"] <= ends["delta_high"] + 1e-9).all()
    assert torch.tensor(ends["items"].tolist()).unique().tolist() == [3]
