"""pml.mwork against a loop over languages, settings and seeds with one evaluation for each."""

import math

import pytest
import torch

import pymultiling as pml
from pymultiling import tasks
from pymultiling.methods.mwork import ANYWHERE, IN_LAYERS, OWN, PARTS, SETTINGS, Setting, parts
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama", torch.float64, num_hidden_layers=4), tiny_tokenizer()
TEXTS = {"en": texts("fr", seed=1), "fr": texts("fr", seed=2), "de": texts("de", seed=3)}
TASK = tasks.continuation(TEXTS, choices=3).judged_by("likelihood")
NEURONS = {language: random_neurons(MODEL, seed=seed) for seed, language in enumerate(TEXTS)}
SPANS = dict(understanding=range(1), generation=range(3, 4))


def metric_value(language: str, neurons: pml.NeuronSet | None) -> float:
    sets = {} if neurons is None else {"x": neurons}
    return pml.tasks.evaluate(MODEL, TOKENIZER, TASK.only([language]), sets).iloc[-1, 0]


def test_parts_divide_the_members_of_a_set():
    neurons = NEURONS["fr"]
    result = parts(neurons, **SPANS)
    assert tuple(result) == PARTS
    assert result["understanding"] == neurons.layers(0, 1) and result["generation"] == neurons.layers(3, 4)
    assert result["attention"] == neurons.layers(1, 3).only("q", "k", "v", "o")
    assert result["ffn"] == neurons.layers(1, 3).only("ffn")
    assert sum(map(len, result.values())) == len(neurons)
    for wrong in ((range(1, 2), range(3, 4)), (range(1), range(2, 3)), (range(3), range(2, 4))):
        with pytest.raises(ValueError, match="first of the 4 layers"):
            parts(neurons, *wrong)
    assert len(parts(neurons, range(0), range(4, 4))["understanding"]) == 0
    assert parts(neurons, 1, 1) == result


def test_random_sets_have_as_many_neurons():
    neurons_by_part = parts(NEURONS["fr"], **SPANS)
    for setting in SETTINGS:
        neurons, *_ = Setting(setting.off, OWN).sets(neurons_by_part, (0, 1))
        drawn = setting.sets(neurons_by_part, (0, 1))
        assert len(drawn) == (1 if setting.neurons == OWN else 2)
        for random_set in drawn:
            assert random_set.count("site") == neurons.count("site")
            assert (random_set.count("layer") == neurons.count("layer")) == (setting.neurons != ANYWHERE)


def test_the_table_is_that_of_a_loop_over_languages_settings_and_seeds():
    seeds = (4, 5)
    result = pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, **SPANS, seeds=seeds)
    assert len(result) == 1 + len(SETTINGS)
    plain = {language: metric_value(language, None) for language in TEXTS}
    first = result.iloc[0]
    assert first["neurons"] == "none" and first[list(PARTS)].all() and first["delta"] == 0
    assert first["english"] == pytest.approx(plain["en"])
    assert first["others"] == pytest.approx((plain["fr"] + plain["de"]) / 2)
    for setting, (_, row) in zip(SETTINGS, list(result.iterrows())[1:]):
        assert row["neurons"] == setting.neurons
        assert tuple(part for part in PARTS if not row[part]) == setting.off
        deltas, english, others = [], [], []
        drawn = {name: setting.sets(parts(NEURONS[name], **SPANS), seeds) for name in ("fr", "de")}
        assert row["count"] == (len(drawn["fr"][0]) + len(drawn["de"][0])) / 2
        for fr, de in zip(drawn["fr"], drawn["de"]):
            english.append((metric_value("en", fr) + metric_value("en", de)) / 2)
            others.append((metric_value("fr", fr) + metric_value("de", de)) / 2)
            change = (metric_value("fr", fr) - plain["fr"] + metric_value("de", de) - plain["de"]) / 2
            deltas.append(english[-1] - plain["en"] - change)
        assert row["english"] == pytest.approx(sum(english) / len(english))
        assert row["others"] == pytest.approx(sum(others) / len(others))
        assert row["d_english"] == pytest.approx(row["english"] - plain["en"], abs=1e-12)
        assert row["d_others"] == pytest.approx(row["others"] - (plain["fr"] + plain["de"]) / 2, abs=1e-12)
        assert row["delta"] == pytest.approx(sum(deltas) / len(deltas), abs=1e-12)
        if setting.neurons == OWN:
            assert math.isnan(row["delta_std"])
        else:
            assert row["delta_std"] == pytest.approx(abs(deltas[0] - deltas[1]) / 2**0.5, abs=1e-12)


def test_several_tasks_with_the_specific_neurons_of_a_detection():
    detection = pml.detect(MODEL, TOKENIZER, TEXTS, select=pml.TopK(0.3, 0.3), progress=False)
    settings = (Setting(("ffn",), OWN), Setting(("ffn",), IN_LAYERS))
    result = pml.mwork(MODEL, TOKENIZER, detection, [TASK, TASK.judged_by("accuracy")], **SPANS, settings=settings)
    assert result["neurons"].tolist() == ["none", OWN, IN_LAYERS] * 2
    assert result["metric"].tolist() == ["likelihood"] * 3 + ["accuracy"] * 3
    expected = parts(detection.specific()["fr"], **SPANS)["ffn"], parts(detection.specific()["de"], **SPANS)["ffn"]
    assert result["count"][1] == (len(expected[0]) + len(expected[1])) / 2


def test_tasks_and_sets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'en' in the task"):
        pml.mwork(MODEL, TOKENIZER, NEURONS, TASK.only(["fr", "de"]), **SPANS)
    with pytest.raises(ValueError, match="a language in both"):
        pml.mwork(MODEL, TOKENIZER, {"en": NEURONS["en"]}, TASK, **SPANS)
    with pytest.raises(ValueError, match="need at least one seed"):
        pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, **SPANS, seeds=())
    foreign = random_neurons(tiny_model("llama", num_hidden_layers=4, intermediate_size=41))
    with pytest.raises(ValueError, match="the set of 'fr' is of another model"):
        pml.mwork(MODEL, TOKENIZER, {"fr": foreign}, TASK, **SPANS)


def test_search_finds_the_highest_delta_of_a_loop():
    result = pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "fr", most=0.5)
    neurons, plain = NEURONS["fr"], {language: metric_value(language, None) for language in TEXTS}
    assert result.sweep["part"].tolist() == ["understanding"] * 2 + ["generation"] * 2
    assert result.sweep["layers"].tolist() == [1, 2, 1, 2]
    spans = (0, 1), (0, 2), (3, 4), (2, 4)
    for span, delta in zip(spans, result.sweep["delta"]):
        off = neurons.layers(*span)
        assert delta == pytest.approx(
            metric_value("en", off) - plain["en"] - (metric_value("fr", off) - plain["fr"]), abs=1e-12
        )
    best = {part: spans[rows["delta"].idxmax()] for part, rows in result.sweep.groupby("part")}
    assert (result.understanding, result.generation) == (range(*best["understanding"]), range(*best["generation"]))
    pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, understanding=result.understanding, generation=result.generation)


def test_search_refuses_missing_languages_and_a_wrong_most():
    with pytest.raises(pml.CorpusError, match="no items in 'xx'"):
        pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "xx")
    with pytest.raises(ValueError, match="a language in both"):
        pml.mwork_search(MODEL, TOKENIZER, {"de": NEURONS["de"]}, TASK, "fr")
    with pytest.raises(ValueError, match=r"at most 0.5"):
        pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "fr", most=0.6)
