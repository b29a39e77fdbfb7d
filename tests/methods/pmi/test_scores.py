"""Metric values against values computed by hand, and the packages that they need."""

import re
import sys
from types import SimpleNamespace

import pytest

import pymultiling as pml
from pymultiling.methods.pmi import ParallelTask
from pymultiling.methods.pmi.scores import answer_metrics, find_label, load_comet, require_sacrebleu


def evaluate_answers(metric: str, answers, references, target="en", labels=()):
    return answer_metrics(ParallelTask("t", "free", [], metric, labels), answers, references, target)


def test_bleu_and_chrf_are_those_of_the_corpus():
    exact, signatures = evaluate_answers("bleu", ["the cat sat on the mat"], [("the cat sat on the mat",)])
    assert exact == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert "tok:13a" in signatures["bleu"]
    # The precisions are 3/4, 2/3, 1/2 and, smoothed, 1/2 of 1, as no 4-gram is common. There is no brevity penalty.
    partial, _ = evaluate_answers("bleu", ["a b c x"], [("a b c d",)])
    assert partial["bleu"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_the_best_of_several_references_counts():
    values, _ = evaluate_answers("bleu", ["a b c d", "e f g h"], [("x y", "a b c d"), ("e f g h",)])
    assert values["bleu"] == pytest.approx(100)


@pytest.mark.parametrize(
    "target, text, tokeniser", [("zho_Hans", "你好世界", "zh"), ("ja", "こんにちは", "char"), ("fr", "oui", "13a")]
)
def test_languages_without_spaces_have_their_tokeniser(target, text, tokeniser):
    values, signatures = evaluate_answers("bleu", [text], [(text,)], target)
    assert f"tok:{tokeniser}" in signatures["bleu"] and values["chrf"] == pytest.approx(100)


def test_accuracy_is_the_percentage_of_correct_numbers_or_labels():
    assert evaluate_answers("number", ["so it is 12.", "it is 7", "none"], [("12",), ("8",), ("3",)])[0] == {
        "accuracy": pytest.approx(100 / 3)
    }
    labels = ("entailment", "neutral", "contradiction")
    values, _ = evaluate_answers(
        "label",
        ["Neutral, not entailment", "entailment", "?"],
        [("neutral",), ("neutral",), ("neutral",)],
        labels=labels,
    )
    assert values == {"accuracy": pytest.approx(100 / 3)}
    assert find_label("It is not sure.", ("not", "not sure")) == "not sure" and find_label("?", labels) is None


@pytest.mark.parametrize(
    "answer, labels, expected",
    [
        ("I know that it is so: yes", ("no", "yes"), "yes"),
        ("It is snowing: no", ("no", "yes"), "no"),
        ("noël, yes", ("no", "yes"), "yes"),
        ("No.", ("no", "yes"), "no"),
        ("**no**", ("no", "yes"), "no"),
        ("not_entailment", ("entailment",), None),
        ("not entailment", ("entailment", "not entailment"), "not entailment"),
        ("答えはyesです", ("no", "yes"), "yes"),
        ("entailment입니다", ("entailment", "neutral"), "entailment"),
        ("これは正しいです", ("正しい", "誤り"), "正しい"),
        ("größer", ("größe", "klein"), None),
        ("C++11", ("c++", "c"), "c++"),
    ],
)
def test_labels_are_found_as_whole_words(answer, labels, expected):
    assert find_label(answer, labels) == expected


@pytest.mark.parametrize(
    "target, references, tokeniser",
    [
        ("ja", ["2024", "OK"], "char"),
        ("JPN-Jpan", ["2024"], "char"),
        ("tha_Thai", ["2024"], "char"),
        ("lo", ["2024"], "char"),
        ("mya", ["2024"], "char"),
        ("khm_Khmr", ["2024"], "char"),
        ("cmn_Hans", ["2024"], "zh"),
        ("zh-TW", ["2024"], "zh"),
        ("qq", ["2024", "こんにちは", "世界"], "char"),
        (None, ["2024", "こんにちは"], "13a"),
        ("en", ["They write 世界", "world", "word"], "13a"),
    ],
)
def test_the_target_determines_the_tokeniser(target, references, tokeniser):
    _, signatures = evaluate_answers("bleu", references, [(reference,) for reference in references], target)
    assert f"tok:{tokeniser}" in signatures["bleu"]


def test_perfect_answers_have_bleu_100_if_the_corpus_begins_with_a_number():
    references = ["2024", "こんにちは世界", "今日は良い天気です"]
    values, _ = evaluate_answers("bleu", references, [(reference,) for reference in references], "ja")
    assert values["bleu"] == pytest.approx(100)


def test_a_missing_sacrebleu_is_named_with_its_installation(monkeypatch):
    require_sacrebleu()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for function in (require_sacrebleu, lambda: evaluate_answers("bleu", ["a"], [("a",)])):
        with pytest.raises(pml.BackendUnavailable, match=re.escape("pip install 'pymultiling[pmi]'")):
            function()


def test_a_missing_comet_is_named_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(
        pml.BackendUnavailable, match=r"COMET is not installed; .* need transformers below 5, so evaluate"
    ):
        load_comet("Unbabel/wmt22-comet-da")


def test_comet_is_loaded_once_and_downloaded_unless_its_name_is_a_file(monkeypatch, tmp_path):
    calls = []

    class Model:
        def predict(self, samples, batch_size, gpus):
            calls.append(samples)
            return SimpleNamespace(system_score=0.25 * len(samples))

    def download(name):
        calls.append(f"download {name}")
        return f"{name}.ckpt"

    def load(path):
        calls.append(f"load {path}")
        return Model()

    monkeypatch.setitem(sys.modules, "comet", SimpleNamespace(download_model=download, load_from_checkpoint=load))
    comet = load_comet("da")
    assert comet(["s", "t"], ["a", "b"], [("r", "other"), ("q",)]) == 50
    assert comet(["s"], ["a"], [("r",)]) == 25
    samples = [{"src": "s", "mt": "a", "ref": "r"}, {"src": "t", "mt": "b", "ref": "q"}]
    assert calls == ["download da", "load da.ckpt", samples, samples[:1]]
    checkpoint = tmp_path / "own.ckpt"
    checkpoint.write_text("")
    load_comet(str(checkpoint))
    assert calls[4:] == [f"load {checkpoint}"]
