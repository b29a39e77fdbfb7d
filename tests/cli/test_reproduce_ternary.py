"""`reproduce ternary`: counts, kinds of neurons, and what happens without them, cut to the time that there is."""

import json
from pathlib import Path

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods.reproduction import counting_rounds, held_out, rounds, ternary
from pymultiling.methods.reproduction.rounds import PACK, text_blocks
from pymultiling.methods.ternary import sets_by_kind
from pymultiling.neurons.activation_statistics import ActivationStatistics
from tests.support.command_line import assert_error_line, run
from tests.support.reproduction import assert_refused_before_loading, write_corpora

MODEL = Path(demo_model.__file__).parent / "model"
LANGUAGES = ("en", "de", "fr")
ROUNDS, TEXTS, QUESTIONS = 2, 5, 2


@pytest.fixture(autouse=True, scope="module")
def few_documents():
    """Few documents, so that a full run takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "ROUNDS", ROUNDS)
        patch.setattr(rounds, "ROUND", 2)
        yield


def write_records(file: Path, records: list[dict[str, object]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_data(folder: Path) -> Path:
    """Writes texts of three languages, and questions of MGSM with their exemplars."""
    write_corpora(folder, LANGUAGES, TEXTS)
    exemplars = [
        {"lang": name, "question": f"Q: {number} + 1?", "answer": f"A: {number + 1}"}
        for name in LANGUAGES
        for number in range(8)
    ]
    asked = [
        {"lang": name, "question": f"{number} + 3?", "answer": str(number + 3)}
        for name in LANGUAGES
        for number in range(QUESTIONS)
    ]
    write_records(folder / "tasks" / "mgsm_exemplars.jsonl", exemplars)
    write_records(folder / "tasks" / "mgsm.jsonl", asked)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return write_data(tmp_path / "data")


def reproduce(data: Path, out: Path, *options: object) -> int:
    metric = ["--metric", "likelihood", "--seeds", 1, "--quiet"]
    return run("reproduce", "ternary", "--model", MODEL, "--data", data, "--out", out, *metric, *options)


def table(out: Path, name: str, **options) -> pandas.DataFrame:
    return pandas.read_csv(out / f"{name}.csv", **options)


def test_the_tables_are_those_of_the_functions_also_after_a_short_run(data, tmp_path, capsys, monkeypatch):
    """A short run counts one round and measures one text of each language; the full run measures only the rest."""
    out, calls = tmp_path / "out", []
    count = counting_rounds.activations
    monkeypatch.setattr(
        counting_rounds, "activations", lambda *args, **options: calls.append(1) or count(*args, **options)
    )
    assert reproduce(data, out, "--minutes", 0.001) == 0
    assert set(table(out, "samples")["items"]) == {2, 1} and len(calls) == 1
    assert not (out / "kinds.csv").exists() and "MGSM: no time was left" in capsys.readouterr().out
    assert reproduce(data, out) == 0
    assert len(calls) == ROUNDS

    model, tokenizer = demo_model.load()
    texts = demo_model.corpora()
    blocks = {name: text_blocks(texts[name][:60], tokenizer)[:ROUNDS] for name in LANGUAGES}
    counts = {}
    for number in range(ROUNDS):
        of_round = {name: parts[number] for name, parts in blocks.items()}
        for name, more in pml.activations(model, tokenizer, of_round, pack=PACK, workers=0, progress=False).items():
            counts[name] = counts[name] + more if number else more
    for name in LANGUAGES:
        saved = ActivationStatistics.load(out / "counts" / f"{name}.safetensors")
        assert saved.tokens == counts[name].tokens and saved.active.equal(counts[name].active)
    expected = pml.ternary(counts)
    assert table(out, "histogram")["neurons"].tolist() == expected.histogram
    pandas.testing.assert_frame_equal(table(out, "by_layer"), expected.by_layer())

    kinds = {f"all {kind}": neurons for kind, neurons in sets_by_kind(expected).items() if len(neurons)}
    assert list(kinds) == ["all specific"]  # a kind without neurons is left out
    heldout = {name: (data / "corpora" / f"{name}.heldout.txt").read_text().splitlines() for name in LANGUAGES}
    sets = {**expected.neurons, **kinds}
    perplexities = pml.ablation_matrix(model, tokenizer, sets, heldout, random_draws=3, workers=0, progress=False)
    found = table(out, "perplexity", index_col="off")
    pandas.testing.assert_frame_equal(found, perplexities, rtol=1e-4, check_names=False)
    change = table(out, "log_change", index_col="off")
    effects = table(out, "intervals").set_index(["row", "language"])
    for kind in kinds:
        drawn = change.loc[[f"random {draw} as {kind}" for draw in (1, 2, 3)], "de"].mean()
        assert effects.loc[(f"{kind} neurons off", "de"), "value"] == pytest.approx(change.loc[kind, "de"], abs=1e-5)
        assert effects.loc[(f"random as {kind} off", "de"), "value"] == pytest.approx(drawn, abs=1e-5)
    assert (effects["low"] <= effects["value"]).all() and (effects["value"] <= effects["high"]).all()

    task = pml.tasks.mgsm(*(str(data / "tasks" / f"{name}.jsonl") for name in ("mgsm", "mgsm_exemplars")))
    scores = pml.tasks.evaluate(model, tokenizer, task.judged_by("likelihood"), kinds, progress=False)
    rows = table(out, "kinds", keep_default_na=False).set_index(["neurons", "language"])
    for name in ("none", *kinds):
        assert rows.loc[(name, "fr"), "score"] == pytest.approx(scores.loc[name, "fr"], abs=1e-5)
        assert rows.loc[(name, "fr"), "items"] == QUESTIONS
    printed = capsys.readouterr().out
    for text in ("specific  related", "random as all specific", "MGSM (likelihood)", "MSVAMP", "needs training",
                 "0.109375; here"):  # fmt: skip
        assert text in printed
    html = (out / "report.html").read_text("utf-8")
    for title in ("Specific, related and general neurons by layer", "Tasks with all neurons of a kind off"):
        assert title in html


def test_an_interrupted_run_goes_on(data, tmp_path, capsys, monkeypatch):
    """Nothing that was counted before the interrupt is counted again."""
    out = tmp_path / "out"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ternary, "_classify", interrupt)
        assert reproduce(data, out) == 130
    assert_error_line(capsys, f"run the same command again to continue from {out / 'measured'}")
    monkeypatch.setattr(counting_rounds, "activations", lambda *_, **__: pytest.fail("counted again"))
    monkeypatch.setattr(held_out, "HELDOUT", 1)
    assert reproduce(data, out, "--minutes", 0.001) == 0


def test_lambda_is_zero_if_no_lambda_excludes_general_neurons():
    """Two of 200 neurons are active, in all languages and nearly equally often: any lambda selects them."""
    counts = {}
    for language, times in (("en", 100), ("de", 100), ("fr", 99)):
        active = torch.zeros(1, 200, dtype=torch.int64)
        active[0, :2] = times
        counts[language] = ActivationStatistics(active, 100)
    notes = ternary.Notes()
    found = ternary._classify(counts, notes)
    assert found.lam == 0 and len(found.general) == 2
    assert notes.departures[0].startswith("lambda: 0, since even with it 2 general neurons are selected")


def without_french(data: Path) -> None:
    for file in (data / "corpora").glob("fr.*"):
        file.unlink()


def without_exemplars(data: Path) -> None:
    (data / "tasks" / "mgsm_exemplars.jsonl").unlink()


@pytest.mark.parametrize(
    "damage, options, messages",
    [
        (without_french, [], ["at least 3 languages, and there are 2 (en, de)"]),
        (lambda _: None, ["--languages", "fr"], ["at least 3 languages", "(en, fr)"]),
        (without_exemplars, [], ["mgsm.jsonl needs", "tasks/mgsm_exemplars.jsonl"]),
        (lambda _: None, ["--metric", "bleu"], ["metric must be one of"]),
    ],
)
def test_says_what_is_missing_before_loading(data, tmp_path, capsys, monkeypatch, damage, options, messages):
    damage(data)
    out = tmp_path / "out"
    assert_refused_before_loading(lambda: reproduce(data, out, *options), out, messages, capsys, monkeypatch)
