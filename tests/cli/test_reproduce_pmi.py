"""`reproduce pmi`: active neurons and answers by kind of prompt, cut to the time that there is."""

import math
from pathlib import Path

import pandas
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods import pmi
from pymultiling.methods.activations import count_activations
from pymultiling.methods.reproduction import pmi_counts, pmi_scores
from pymultiling.methods.reproduction.pmi_scores import bleu_statistics, corpus_bleu, with_interval
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.probes.activation_counts import ActivationProbe
from tests.support.command_line import assert_error_line, run
from tests.support.reproduction import assert_refused_before_loading
from tests.support.tiny_text import write_text

MODEL = Path(demo_model.__file__).parent / "model"
COLUMNS = {"eng_Latn": "en", "deu_Latn": "de", "fra_Latn": "fr", "spa_Latn": "es"}
SENTENCES, LONG = 6, 5  # the last sentence is longer than the model
LANGUAGES = ["--languages", "de,fr,es"]
NAMES = ["direct", "pivot", "PMI-1", "PMI-2"]


def sentences() -> dict[str, list[str]]:
    heldout = demo_model.heldout()
    texts = {column: [text[:30] for text in heldout[name][:SENTENCES]] for column, name in COLUMNS.items()}
    texts["spa_Latn"][LONG] = "largo " * 400
    return texts


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data" / "parallel"
    folder.mkdir(parents=True)
    texts = sentences()
    write_text(folder / "flores.tsv", ["\t".join(row) for row in (texts, *zip(*texts.values()))])
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short answers and rounds of two items."""
    monkeypatch.setattr(pmi_scores, "MAX_NEW_TOKENS", 5)
    monkeypatch.setattr("pymultiling.methods.reproduction.pmi.MAX_NEW_TOKENS", 5)
    monkeypatch.setattr(pmi_counts, "ROUND", 2)


def reproduce(data: Path, out: Path, *options: object) -> int:
    return run("reproduce", "pmi", "--model", MODEL, "--data", data, "--out", out, "--quiet", *options)


def table(out: Path, name: str) -> pandas.DataFrame:
    return pandas.read_csv(out / f"{name}.csv", keep_default_na=False, na_values=[""])


def test_the_tables_are_those_of_compare_also_after_a_short_run(data, tmp_path, capsys, monkeypatch):
    """A short run counts the first round, and the full run the others, with all kinds of prompts."""
    out, calls = tmp_path / "out", []
    count = count_activations
    monkeypatch.setattr(
        pmi_counts, "count_activations", lambda *args, **options: calls.append(1) or count(*args, **options)
    )
    assert reproduce(data, out, *LANGUAGES, "--minutes", 0.001) == 0
    assert set(table(out, "samples")["items"]) == {2} and len(calls) == 2 * len(NAMES)
    assert not (out / "answers.csv").exists() and "answers: no time was left" in capsys.readouterr().out
    assert reproduce(data, out, *LANGUAGES) == 0
    assert len(calls) == (SENTENCES - 1) * len(NAMES)

    model, tokenizer = demo_model.load()
    task = pmi.translation(sentences(), target="eng_Latn", languages=["deu_Latn", "fra_Latn", "spa_Latn"])
    task = pml.pmi.ParallelTask("translation", task.template, task.items, "bleu", stop=("\n",), max_new_tokens=5)
    expected = pmi.compare(
        model, tokenizer, task, source="deu_Latn", others=["fra_Latn", "spa_Latn"], target="eng_Latn",
        pivot="fra_Latn", progress=False,
    )  # fmt: skip
    assert expected.left_out == 1
    pandas.testing.assert_frame_equal(table(out, "table"), expected.table.drop(columns="chrf"), rtol=1e-9)
    pandas.testing.assert_frame_equal(table(out, "by_layer"), expected.by_layer, rtol=1e-9)
    for name, counts in expected.statistics.items():
        assert ActivationStatistics.load(out / "counts" / f"{name}.safetensors").active.equal(counts.active)
    answers = table(out, "answers").set_index("prompt")
    assert answers["value"].tolist() == pytest.approx(expected.table["bleu"].tolist())
    assert (answers["low"] <= answers["high"]).all() and answers["items"].tolist() == [SENTENCES - 1] * len(NAMES)
    printed = capsys.readouterr().out
    for text in ("of direct's, still active", "active neurons, sentences: deu_Latn 5 of 5", "1 are left out",
                 "Other than in the paper", "needs training"):  # fmt: skip
        assert text in printed
    html = (out / "report.html").read_text("utf-8")
    for title in ("Active neurons by prompt and how certain they are", "Inhibited neurons by layer"):
        assert title in html


def test_inhibition_is_what_the_sets_of_active_neurons_say(data, tmp_path):
    """By hand from the active neurons of each prompt: kept, inhibited and new ones, in all layers and in each."""
    out = tmp_path / "out"
    assert reproduce(data, out, *LANGUAGES, "--metric", "likelihood", "--minutes", 0.001) == 0
    model, tokenizer = demo_model.load()
    probe = ActivationProbe(model)
    items = pmi.translation(sentences(), target="eng_Latn").items[:2]

    def active(item: pml.pmi.ParallelItem, form: str, others: list[str]) -> torch.Tensor:
        text = pmi.prompt(item, form=form, source="deu_Latn", others=others, target="eng_Latn")
        tokens = tokenizer(text)["input_ids"]
        return count_activations(probe, [(tokens, 0)], "last", 4096, "x", False).active > 0

    direct = torch.stack([active(item, "direct", []) for item in items])
    both = torch.stack([active(item, "pmi", ["fra_Latn"]) for item in items])
    rows = table(out, "activity").set_index(["measure", "prompt"])["value"]
    assert rows["of active neurons", "PMI-1"] == pytest.approx(both.double().mean().item())
    change = both.double().mean() - direct.double().mean()
    assert rows["gained against direct", "PMI-1"] == pytest.approx(change.item())
    kept = (direct & both).sum() / direct.sum()
    assert rows["of direct's, still active", "PMI-1"] == pytest.approx(kept.item())
    new = (both & ~direct).sum() / both.sum()
    assert rows["of its own, not in direct", "PMI-1"] == pytest.approx(new.item())
    layers = table(out, "inhibition").query("prompt == 'PMI-1'")
    lost = (direct & ~both).sum((0, 2)) / direct.sum((0, 2))
    assert layers["inhibited"].tolist() == pytest.approx(lost.tolist())


def test_a_run_that_was_killed_between_values_and_counts_goes_on(data, tmp_path, monkeypatch):
    """The values of a round are there and its counts are not: the round is counted again, and its values stay."""
    out, options = tmp_path / "out", [*LANGUAGES, "--metric", "likelihood"]
    whole = tmp_path / "whole"
    assert reproduce(data, whole, *options) == 0

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pymultiling.methods.reproduction.measured.Measured.keep_statistics", interrupt)
        assert reproduce(data, out, *options) == 130
    assert (out / "measured" / "active.direct").is_dir() and not (out / "measured" / "detection").exists()
    assert reproduce(data, out, *options) == 0
    for name in ("table", "activity", "inhibition", "answers", "samples"):
        pandas.testing.assert_frame_equal(table(out, name), table(whole, name), rtol=1e-5)


def test_bleu_of_sums_is_that_of_the_corpus():
    answers = ["the cat sat on the mat", "a dog", "they went to the house yesterday evening", ""]
    references = ["the cat sat on a mat", "a dog barks", "they went home yesterday evening", "nothing"]
    statistics = bleu_statistics(answers, references)
    value, low, high, items = with_interval(statistics, corpus_bleu)
    assert value == pytest.approx(BLEU().corpus_score(answers, [references]).score)
    assert low < value < high and items == 4
    twice = corpus_bleu(statistics[[0, 0, 2]].sum(0))
    drawn = [0, 0, 2]
    expected = BLEU().corpus_score([answers[i] for i in drawn], [[references[i] for i in drawn]]).score
    assert twice == pytest.approx(expected)
    assert all(map(math.isnan, with_interval(statistics[:1], corpus_bleu)[1:3]))


def no_german(data: Path) -> None:
    write_text(data / "parallel" / "flores.tsv", ["eng_Latn\tfra_Latn", "a\tb"])


def empty_cells(data: Path) -> None:
    write_text(data / "parallel" / "flores.tsv", ["eng_Latn\tdeu_Latn\tfra_Latn", "a\t\tb"])


@pytest.mark.parametrize(
    "damage, options, messages",
    [
        (no_german, [], ["has no language 'deu_Latn'"]),
        (empty_cells, [], ["has no row with a text in eng_Latn, deu_Latn, fra_Latn"]),
        (lambda _: None, ["--languages", "de,en"], ["eng_Latn is the language of the answers"]),
        (lambda _: None, ["--languages", "de"], ["the source and at least one language to add"]),
        (lambda _: None, ["--metric", "f1"], ["metric must be bleu or likelihood"]),
    ],
)
def test_says_what_is_missing_before_loading(data, tmp_path, capsys, monkeypatch, damage, options, messages):
    damage(data)
    out = tmp_path / "out"
    assert_refused_before_loading(lambda: reproduce(data, out, *options), out, messages, capsys, monkeypatch)


def test_options_of_another_paper_are_refused(data, tmp_path, capsys):
    assert reproduce(data, tmp_path / "out", "--seeds", 2) == 2
    assert_error_line(capsys, "--seeds: not allowed with pmi")
