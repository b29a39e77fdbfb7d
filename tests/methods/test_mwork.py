"""pml.mwork against a loop over languages, settings and seeds, each with its own masked evaluation."""

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


def score(language: str, neurons: pml.NeuronSet | None) -> float:
    sets = {} if neurons is None else {"x": neurons}
    return pml.tasks.evaluate(MODEL, TOKENIZER, TASK.only([language]), sets).iloc[-1, 0]


def test_parts():
    own = NEURONS["fr"]
    found = parts(own, **SPANS)
    assert tuple(found) == PARTS
    assert found["understanding"] == own.layers(0, 1) and found["generation"] == own.layers(3, 4)
    assert found["attention"] == own.layers(1, 3).only("q", "k", "v", "o")
    assert found["ffn"] == own.layers(1, 3).only("ffn")
    assert sum(map(len, found.values())) == len(own)
    for wrong in ((range(1, 2), range(3, 4)), (range(1), range(2, 3)), (range(3), range(2, 4))):
        with pytest.raises(ValueError, match="first of the 4 layers"):
            parts(own, *wrong)
    assert len(parts(own, range(0), range(4, 4))["understanding"]) == 0
    assert parts(own, 1, 1) == found


def test_random_sets_have_as_many_neurons():
    of_parts = parts(NEURONS["fr"], **SPANS)
    for setting in SETTINGS:
        own, *_ = Setting(setting.off, OWN).sets(of_parts, (0, 1))
        drawn = setting.sets(of_parts, (0, 1))
        assert len(drawn) == (1 if setting.neurons == OWN else 2)
        for one in drawn:
            assert one.count("site") == own.count("site")
            assert (one.count("layer") == own.count("layer")) == (setting.neurons != ANYWHERE)


def test_table():
    seeds = (4, 5)
    found = pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, **SPANS, seeds=seeds)
    assert len(found) == 1 + len(SETTINGS)
    plain = {language: score(language, None) for language in TEXTS}
    first = found.iloc[0]
    assert first["neurons"] == "none" and first[list(PARTS)].all() and first["delta"] == 0
    assert first["english"] == pytest.approx(plain["en"])
    assert first["others"] == pytest.approx((plain["fr"] + plain["de"]) / 2)
    for setting, (_, row) in zip(SETTINGS, list(found.iterrows())[1:]):
        assert row["neurons"] == setting.neurons
        assert tuple(part for part in PARTS if not row[part]) == setting.off
        deltas, english, others = [], [], []
        drawn = {one: setting.sets(parts(NEURONS[one], **SPANS), seeds) for one in ("fr", "de")}
        assert row["count"] == (len(drawn["fr"][0]) + len(drawn["de"][0])) / 2
        for fr, de in zip(drawn["fr"], drawn["de"]):
            english.append((score("en", fr) + score("en", de)) / 2)
            others.append((score("fr", fr) + score("de", de)) / 2)
            change = (score("fr", fr) - plain["fr"] + score("de", de) - plain["de"]) / 2
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


def test_several_tasks_and_a_detection():
    detection = pml.detect(MODEL, TOKENIZER, TEXTS, select=pml.TopK(0.3, 0.3), progress=False)
    some = (Setting(("ffn",), OWN), Setting(("ffn",), IN_LAYERS))
    found = pml.mwork(MODEL, TOKENIZER, detection, [TASK, TASK.judged_by("accuracy")], **SPANS, settings=some)
    assert found["neurons"].tolist() == ["none", OWN, IN_LAYERS] * 2
    assert found["metric"].tolist() == ["likelihood"] * 3 + ["accuracy"] * 3
    expected = parts(detection.specific()["fr"], **SPANS)["ffn"], parts(detection.specific()["de"], **SPANS)["ffn"]
    assert found["count"][1] == (len(expected[0]) + len(expected[1])) / 2


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="'en' in the task"):
        pml.mwork(MODEL, TOKENIZER, NEURONS, TASK.only(["fr", "de"]), **SPANS)
    with pytest.raises(ValueError, match="a language in both"):
        pml.mwork(MODEL, TOKENIZER, {"en": NEURONS["en"]}, TASK, **SPANS)
    with pytest.raises(ValueError, match="need at least one seed"):
        pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, **SPANS, seeds=())
    other = random_neurons(tiny_model("llama", num_hidden_layers=4, intermediate_size=41))
    with pytest.raises(ValueError, match="the set of 'fr' is of another model"):
        pml.mwork(MODEL, TOKENIZER, {"fr": other}, TASK, **SPANS)


def test_search():
    found = pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "fr", most=0.5)
    own, plain = NEURONS["fr"], {language: score(language, None) for language in TEXTS}
    assert found.sweep["part"].tolist() == ["understanding"] * 2 + ["generation"] * 2
    assert found.sweep["layers"].tolist() == [1, 2, 1, 2]
    spans = (0, 1), (0, 2), (3, 4), (2, 4)
    for span, delta in zip(spans, found.sweep["delta"]):
        off = own.layers(*span)
        assert delta == pytest.approx(score("en", off) - plain["en"] - (score("fr", off) - plain["fr"]), abs=1e-12)
    best = {part: spans[rows["delta"].idxmax()] for part, rows in found.sweep.groupby("part")}
    assert (found.understanding, found.generation) == (range(*best["understanding"]), range(*best["generation"]))
    pml.mwork(MODEL, TOKENIZER, NEURONS, TASK, understanding=found.understanding, generation=found.generation)


def test_search_of_a_language_that_is_not_there():
    with pytest.raises(pml.CorpusError, match="no items in 'xx'"):
        pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "xx")
    with pytest.raises(ValueError, match="a language in both"):
        pml.mwork_search(MODEL, TOKENIZER, {"de": NEURONS["de"]}, TASK, "fr")
    with pytest.raises(ValueError, match=r"at most 0.5"):
        pml.mwork_search(MODEL, TOKENIZER, NEURONS, TASK, "fr", most=0.6)
