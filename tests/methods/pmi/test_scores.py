import re
import sys
from types import SimpleNamespace

import pytest

import pymultiling as pml
from pymultiling.methods.pmi import ParallelTask
from pymultiling.methods.pmi.scores import answer_metrics, find_label, load_comet, require_sacrebleu


def scored(metric: str, answers, references, target="en", labels=()):
    return answer_metrics(ParallelTask("t", "free", [], metric, labels), answers, references, target)


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
    assert find_label("It is not sure.", ("not", "not sure")) == "not sure" and find_label("?", labels) is None


@pytest.mark.parametrize(
    "answer, labels, found",
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
def test_labels_are_whole_words(answer, labels, found):
    assert find_label(answer, labels) == found


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
def test_the_tokeniser_is_that_of_the_target(target, references, tokeniser):
    _, signatures = scored("bleu", references, [(one,) for one in references], target)
    assert f"tok:{tokeniser}" in signatures["bleu"]


def test_perfect_answers_of_a_corpus_that_begins_with_a_number():
    references = ["2024", "こんにちは世界", "今日は良い天気です"]
    values, _ = scored("bleu", references, [(one,) for one in references], "ja")
    assert values["bleu"] == pytest.approx(100)


def test_sacrebleu_that_is_not_installed(monkeypatch):
    require_sacrebleu()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for needs in (require_sacrebleu, lambda: scored("bleu", ["a"], [("a",)])):
        with pytest.raises(pml.BackendUnavailable, match=re.escape("pip install 'pymultiling[pmi]'")):
            needs()


def test_comet_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(
        pml.BackendUnavailable, match="COMET is not installed; .* need transformers below 5, so evaluate"
    ):
        load_comet("Unbabel/wmt22-comet-da")


def test_comet(monkeypatch, tmp_path):
    """A model is loaded once, and downloaded where its name is no file."""
    asked = []

    class Model:
        def predict(self, rows, batch_size, gpus):
            asked.append(rows)
            return SimpleNamespace(system_score=0.25 * len(rows))

    def download(name):
        asked.append(f"download {name}")
        return f"{name}.ckpt"

    def load(path):
        asked.append(f"load {path}")
        return Model()

    monkeypatch.setitem(sys.modules, "comet", SimpleNamespace(download_model=download, load_from_checkpoint=load))
    score = load_comet("da")
    assert score(["s", "t"], ["a", "b"], [("r", "other"), ("q",)]) == 50
    assert score(["s"], ["a"], [("r",)]) == 25
    rows = [{"src": "s", "mt": "a", "ref": "r"}, {"src": "t", "mt": "b", "ref": "q"}]
    assert asked == ["download da", "load da.ckpt", rows, rows[:1]]
    own = tmp_path / "own.ckpt"
    own.write_text("")
    load_comet(str(own))
    assert asked[4:] == [f"load {own}"]
