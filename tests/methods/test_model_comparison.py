"""pml.compare_models and pml.measure_model against the methods that they call, one by one."""

import copy
import math

import pytest
import torch
from pandas.testing import assert_frame_equal

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

TEXTS = {"fr": texts("fr"), "de": texts("de"), "it": texts("fr", seed=1)}  # in no alphabetical order
SENTENCES = {"fr": texts("fr", seed=2), "de": [*texts("de", seed=2), None], "it": texts("de", seed=3)}
COMMON = {"max_length": 10, "batch_tokens": 24}
TERNARY = {"top": 0.3, "bar": 0.6, "lam": 0.05}
ILO = {"k": 4, "tau": 2, "metric": "euclidean"}
OPTIONS = {"ternary_options": TERNARY, "ilo_options": ILO, "progress": False}
OVERLAPS = ("bridge", "reach", "ilo")


def pair(dtype: torch.dtype = torch.float32) -> list:
    return [tiny_model("llama", dtype, seed) for seed in (0, 1)]


def compare(before, after, **options) -> pml.ModelComparison:
    return pml.compare_models(before, after, tiny_tokenizer(), **{**OPTIONS, **options})


def kinds(model, given=TEXTS, **options) -> pml.Ternary:
    return pml.ternary(pml.activations(model, tiny_tokenizer(), given, progress=False, **options), **TERNARY)


def assert_same(found, expected) -> None:
    """Of two TernaryChange, or two ModelComparison."""
    for one, other in zip(found, expected, strict=True):
        assert_frame_equal(one, other, check_exact=True) if hasattr(one, "columns") else assert_same(one, other)


def assert_unchanged(found: pml.ModelComparison) -> None:
    assert found.perplexity["change"].abs().max() < 1e-10
    assert (found.ternary.languages["jaccard"] == 1).all() and (found.ternary.kinds["jaccard"].dropna() == 1).all()
    for table in found.ternary.kinds, found.ternary.layers, found.ternary.histogram:
        assert (table["change"] == 0).all()
    assert (found.ilo[[f"{name}_change" for name in OVERLAPS]] == 0).all(axis=None)


@pytest.mark.parametrize("pack", [None, 8])
def test_perplexities_are_those_of_either_model_and_the_change_is_the_logarithm_of_their_ratio(pack):
    models = pair()
    found = compare(*models, texts=TEXTS, pack=pack, **COMMON).perplexity
    assert list(found) == ["before", "after", "change"] and list(found.index) == list(TEXTS)
    assert found.index.name == "language"
    for language, some in TEXTS.items():
        old, new = (pml.perplexity(one, tiny_tokenizer(), some, pack=pack, **COMMON) for one in models)
        assert found.loc[language, ["before", "after"]].tolist() == [old, new]
        assert found.loc[language, "change"] == pytest.approx(math.log(new / old), rel=1e-12)
    assert found["change"].abs().min() > 0.01


@pytest.mark.parametrize("pack", [None, 8])
def test_kinds_of_neuron_are_those_of_ternary_change(pack):
    before, after = (kinds(one, pack=pack, **COMMON) for one in pair())
    found = compare(*pair(), texts=TEXTS, pack=pack, **COMMON).ternary
    assert_same(found, pml.ternary_change(before, after))
    assert (found.kinds.loc[["specific", "general"], "change"] != 0).all()


def test_without_options_ternary_has_its_own_and_finds_lam():
    own = (pml.ternary(pml.activations(one, tiny_tokenizer(), TEXTS, progress=False)) for one in pair())
    found = pml.compare_models(*pair(), tiny_tokenizer(), texts=TEXTS, progress=False).ternary
    assert_same(found, pml.ternary_change(*own))


def test_overlaps_are_those_of_either_model_side_by_side():
    found = compare(*pair(), sentences=SENTENCES, **COMMON).ilo
    points = (pml.sentence_embeddings(one, tiny_tokenizer(), SENTENCES, **COMMON) for one in pair())
    old, new = (pml.ilo(one, **ILO) for one in points)
    columns = [f"{name}_{when}" for name in OVERLAPS for when in ("before", "after", "change")]
    assert list(found) == ["layer", "language", *columns]
    assert found["layer"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and found["language"].tolist() == [*SENTENCES] * 3
    for name in OVERLAPS:
        assert found[f"{name}_before"].tolist() == old[name].tolist()
        assert found[f"{name}_after"].tolist() == new[name].tolist()
        assert found[f"{name}_change"].tolist() == (new[name] - old[name]).tolist()
    assert found["ilo_change"].abs().max() > 0.1


@pytest.mark.long
def test_parts_without_their_input_are_none():
    of_texts, of_sentences = compare(*pair(), texts=TEXTS), compare(*pair(), sentences=SENTENCES)
    assert [one is None for one in of_texts] == [False, False, True]
    assert [one is None for one in of_sentences] == [True, True, False]
    assert_same(compare(*pair(), texts=TEXTS, sentences=SENTENCES), (*of_texts[:2], of_sentences.ilo))


def test_texts_of_one_language_have_a_perplexity_and_no_kinds_of_neuron():
    found = compare(*pair(), texts={"fr": TEXTS["fr"]})
    assert list(found.perplexity.index) == ["fr"] and found.ternary is None


@pytest.mark.long
def test_generators_are_read_once_for_all():
    given = {"texts": TEXTS, "sentences": SENTENCES}
    once = {name: {language: iter(some) for language, some in part.items()} for name, part in given.items()}
    assert_same(compare(*pair(), **once), compare(*pair(), **given))


def test_texts_may_be_files(tmp_path):
    paths = {name: write_text(tmp_path / f"{name}.txt", some) for name, some in TEXTS.items()}
    found = compare(*pair(), texts={**paths, "de": str(paths["de"])})
    assert_same(found[:2], compare(*pair(), texts=TEXTS)[:2])


def test_a_model_and_itself_have_no_change_and_nothing_is_said(capsys):
    model = tiny_model("llama")
    found = compare(model, model, texts=TEXTS, sentences=SENTENCES)
    assert capsys.readouterr() == ("", "")
    assert_unchanged(found)
    assert (found.perplexity["change"] == 0).all() and (found.ternary.kinds["before"] > 0).all()


def test_a_model_that_still_trains_is_measured_as_it_will_be_when_merged():
    plain = tiny_model("llama", torch.float64)
    merged, training = copy.deepcopy(plain), copy.deepcopy(plain)
    for model in (merged, training):
        tuning, generator = pml.train_only(model, random_neurons(model, 0.5)), torch.Generator().manual_seed(5)
        for one in tuning.parameters():
            one.data.copy_(torch.randn(one.shape, generator=generator))
        if model is merged:
            tuning.merge()
    assert_unchanged(compare(merged, training, texts=TEXTS, sentences=SENTENCES))
    found = compare(plain, training, texts=TEXTS, sentences=SENTENCES)
    assert found.perplexity["change"].abs().min() > 0.01 and found.ternary.kinds.loc["specific", "jaccard"] < 1
    assert found.ilo["ilo_change"].abs().max() > 0.1


@pytest.mark.long
def test_what_was_measured_before_stands_for_its_model():
    given = {"texts": TEXTS, "sentences": SENTENCES, **OPTIONS, **COMMON}
    expected = compare(*pair(), **given)
    old, new = (pml.measure_model(one, tiny_tokenizer(), **given) for one in pair())
    assert_same(pml.compare_models(old, new), expected)
    assert_same(compare(old, pair()[1], **given), expected)
    assert_same(compare(pair()[0], new, **given), expected)
    only_texts = pml.compare_models(old._replace(ilo=None), new)
    assert only_texts.ilo is None
    assert_same(only_texts[:2], expected[:2])


def test_languages_in_another_order_are_compared_by_name():
    given = {"texts": TEXTS, "sentences": SENTENCES}
    turned = {name: dict(reversed(part.items())) for name, part in given.items()}
    old, new, other = (
        pml.measure_model(model, tiny_tokenizer(), **some, **OPTIONS)
        for model, some in zip((*pair(), pair()[1]), (given, given, turned))
    )
    expected, found = pml.compare_models(old, new), pml.compare_models(old, other)
    assert_frame_equal(found.perplexity, expected.perplexity, check_exact=True, check_like=True)
    assert_frame_equal(found.ternary.languages, expected.ternary.languages)
    assert found.ilo[["layer", "language"]].equals(expected.ilo[["layer", "language"]])


def test_what_is_wrong_is_said():
    before, after = pair()
    for nothing in ({}, {"texts": {}, "sentences": None}):
        with pytest.raises(ValueError, match="there is nothing to measure the model on: give texts or sentences"):
            compare(before, after, **nothing)
    with pytest.raises(ValueError, match="different shapes: 2 layers x 37 neurons before, 2 x 41 after"):
        compare(before, tiny_model("llama", intermediate_size=41), texts=TEXTS)
    with pytest.raises(ValueError, match="the models have 2 and 3 layers"):
        compare(before, tiny_model("llama", num_hidden_layers=3), sentences=SENTENCES)
    others = {"fr": TEXTS["fr"], "es": TEXTS["de"], "it": TEXTS["it"]}
    for part in ("texts", "sentences"):
        old = pml.measure_model(before, tiny_tokenizer(), **{part: TEXTS}, **OPTIONS)
        with pytest.raises(ValueError, match=f"of the {part} must be the same: fr, de, it before, fr, es, it after"):
            compare(old, after, **{part: others})
    with pytest.raises(pml.CorpusError, match="'fr': pass its sentences as a list of strings, not str"):
        compare(before, after, sentences={"fr": "fr.txt", "de": ["w40"], "it": ["w41"]})
    with pytest.raises(ValueError, match="tau = 2 other languages are more than the 1 that there are"):
        compare(before, after, texts={"fr": ["w4"]}, sentences={"fr": ["w4"], "de": ["w40"]})  # before texts are read
    with pytest.raises(pml.CorpusError, match="a mapping of 'w4 w5' is no corpus"):
        compare(before, after, texts={"fr": {"w4 w5": 1}})
    with pytest.raises(ValueError, match="both models are measured already"):
        compare(old, old)
    with pytest.raises(ValueError, match="a model is measured with its tokenizer"):
        pml.compare_models(old, after, sentences=SENTENCES)
    with pytest.raises(pml.CorpusError, match="language 'de': no token to predict"):
        compare(before, after, texts={"fr": TEXTS["fr"], "de": ["", " "]})
