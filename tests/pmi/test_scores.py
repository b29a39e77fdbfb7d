import importlib.util

import pytest

import pymultiling as pml
from pymultiling.pmi import ParallelTask
from pymultiling.pmi.scores import comet, label, scores


def scored(metric: str, answers, references, target="en", labels=()):
    return scores(ParallelTask("t", "free", [], metric, labels), answers, references, target)


def test_bleu_and_chrf_of_the_corpus():
    exact, signatures = scored("bleu", ["the cat sat on the mat"], [("the cat sat on the mat",)])
    assert exact == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert "tok:13a" in signatures["bleu"]
    # by hand: precisions 3/4, 2/3, 1/2 and, smoothed, 1/2 of 1 (there is no 4-gram in common), no brevity penalty
    part, _ = scored("bleu", ["a b c x"], [("a b c d",)])
    assert part["bleu"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_the_best_of_several_references_counts():
    one, _ = scored("bleu", ["a b c d", "e f g h"], [("x y", "a b c d"), ("e f g h",)])
    assert one["bleu"] == pytest.approx(100)


@pytest.mark.parametrize(
    "target, text, tokeniser", [("zho_Hans", "你好世界", "zh"), ("ja", "こんにちは", "char"), ("fr", "oui", "13a")]
)
def test_languages_without_spaces(target, text, tokeniser):
    values, signatures = scored("bleu", [text], [(text,)], target)
    assert f"tok:{tokeniser}" in signatures["bleu"] and values["chrf"] == pytest.approx(100)


def test_numbers_and_labels():
    assert scored("number", ["so it is 12.", "it is 7", "none"], [("12",), ("8",), ("3",)])[0] == {
        "accuracy": pytest.approx(100 / 3)
    }
    labels = ("entailment", "neutral", "contradiction")
    values, _ = scored(
        "label",
        ["Neutral, not entailment", "entailment", "?"],
        [("neutral",), ("neutral",), ("neutral",)],
        labels=labels,
    )
    assert values == {"accuracy": pytest.approx(100 / 3)}
    assert label("It is not sure.", ("not", "not sure")) == "not sure" and label("?", labels) is None


@pytest.mark.skipif(importlib.util.find_spec("comet") is not None, reason="COMET is installed here")
def test_comet_that_is_not_installed():
    with pytest.raises(pml.BackendUnavailable, match="pip install unbabel-comet"):
        comet("Unbabel/wmt22-comet-da", ["a"], ["b"], [("c",)])
