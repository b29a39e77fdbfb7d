"""pml.compare_models and pml.measure_model against calls of the methods that they combine."""

import copy
import math

import pytest
import torch
from pandas.testing import assert_frame_equal

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

TEXTS = {"fr": texts("fr"), "de": texts("de"), "it": texts("fr", seed=1)}  # not in alphabetical order
SENTENCES = {"fr": texts("fr", seed=2), "de": [*texts("de", seed=2), None], "it": texts("de", seed=3)}
COMMON = {"max_length": 10, "batch_tokens": 24}
TERNARY = {"top": 0.3, "bar": 0.6, "lam": 0.05}
ILO = {"k": 4, "tau": 2, "metric": "euclidean"}
OPTIONS = {"ternary_options": TERNARY, "ilo_options": ILO, "progress": False}
OVERLAPS = ("bridge", "reach", "ilo")


def two_models(dtype: torch.dtype = torch.float32) -> list:
    return [tiny_model("llama", dtype, seed) for seed in (0, 1)]


def compare(before, after, **options) -> pml.ModelComparison:
    return pml.compare_models(before, after, tiny_tokenizer(), **{**OPTIONS, **options})


def ternary_of(model, inputs=TEXTS, **options) -> pml.Ternary:
    return pml.ternary(pml.activations(model, tiny_tokenizer(), inputs, progress=False, **options), **TERNARY)


def assert_same(result, expected) -> None:
    """Compares two TernaryChange or two ModelComparison."""
    for table, expected_table in zip(result, expected, strict=True):
        if hasattr(table, "columns"):
            assert_frame_equal(table, expected_table, check_exact=True)
        else:
            assert_same(table, expected_table)


def assert_unchanged(result: pml.ModelComparison) -> None:
    assert result.perplexity["change"].abs().max() < 1e-10
    assert (result.ternary.languages["jaccard"] == 1).all() and (result.ternary.kinds["jaccard"].dropna() == 1).all()
    for table in result.ternary.kinds, result.ternary.layers, result.ternary.histogram:
        assert (table["change"] == 0).all()
    assert (result.ilo[[f"{name}_change" for name in OVERLAPS]] == 0).all(axis=None)


@pytest.mark.parametrize("pack", [None, 8])
def test_perplexities_are_those_of_either_model_and_the_change_is_the_logarithm_of_their_ratio(pack):
    models = two_models()
    result = compare(*models, texts=TEXTS, pack=pack, **COMMON).perplexity
    assert list(result) == ["before", "after", "change"] and list(result.index) == list(TEXTS)
    assert result.index.name == "language"
    for language, corpus in TEXTS.items():
        old, new = (pml.perplexity(model, tiny_tokenizer(), corpus, pack=pack, **COMMON) for model in models)
        assert result.loc[language, ["before", "after"]].tolist() == [old, new]
        assert result.loc[language, "change"] == pytest.approx(math.log(new / old), rel=1e-12)
    assert result["change"].abs().min() > 0.01


@pytest.mark.parametrize("pack", [None, 8])
def test_kinds_of_neuron_are_those_of_ternary_change(pack):
    before, after = (ternary_of(model, pack=pack, **COMMON) for model in two_models())
    result = compare(*two_models(), texts=TEXTS, pack=pack, **COMMON).ternary
    assert_same(result, pml.ternary_change(before, after))
    assert (result.kinds.loc[["specific", "general"], "change"] != 0).all()


def test_without_options_ternary_uses_its_defaults_and_finds_lam():
    expected = (pml.ternary(pml.activations(model, tiny_tokenizer(), TEXTS, progress=False)) for model in two_models())
    result = pml.compare_models(*two_models(), tiny_tokenizer(), texts=TEXTS, progress=False).ternary
    assert_same(result, pml.ternary_change(*expected))


def test_overlaps_are_those_of_either_model_side_by_side():
    result = compare(*two_models(), sentences=SENTENCES, **COMMON).ilo
    embeddings = (pml.sentence_embeddings(model, tiny_tokenizer(), SENTENCES, **COMMON) for model in two_models())
    old, new = (pml.ilo(values, **ILO) for values in embeddings)
    columns = [f"{name}_{suffix}" for name in OVERLAPS for suffix in ("before", "after", "change")]
    assert list(result) == ["layer", "language", *columns]
    assert result["layer"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] and result["language"].tolist() == [*SENTENCES] * 3
    for name in OVERLAPS:
        assert result[f"{name}_before"].tolist() == old[name].tolist()
        assert result[f"{name}_after"].tolist() == new[name].tolist()
        assert result[f"{name}_change"].tolist() == (new[name] - old[name]).tolist()
    assert result["ilo_change"].abs().max() > 0.1


@pytest.mark.long
def test_measures_without_input_are_none():
    from_texts, from_sentences = compare(*two_models(), texts=TEXTS), compare(*two_models(), sentences=SENTENCES)
    assert [measure is None for measure in from_texts] == [False, False, True]
    assert [measure is None for measure in from_sentences] == [True, True, False]
    assert_same(compare(*two_models(), texts=TEXTS, sentences=SENTENCES), (*from_texts[:2], from_sentences.ilo))


def test_texts_of_one_language_have_a_perplexity_and_no_kinds_of_neuron():
    result = compare(*two_models(), texts={"fr": TEXTS["fr"]})
    assert list(result.perplexity.index) == ["fr"] and result.ternary is None


@pytest.mark.long
def test_generators_give_the_same_as_lists():
    inputs = {"texts": TEXTS, "sentences": SENTENCES}
    once = {name: {language: iter(corpus) for language, corpus in part.items()} for name, part in inputs.items()}
    assert_same(compare(*two_models(), **once), compare(*two_models(), **inputs))


def test_files_give_the_same_as_lists(tmp_path):
    paths = {name: write_text(tmp_path / f"{name}.txt", corpus) for name, corpus in TEXTS.items()}
    result = compare(*two_models(), texts={**paths, "de": str(paths["de"])})
    assert_same(result[:2], compare(*two_models(), texts=TEXTS)[:2])


def test_a_model_and_itself_have_no_change_and_nothing_is_printed(capsys):
    model = tiny_model("llama")
    result = compare(model, model, texts=TEXTS, sentences=SENTENCES)
    assert capsys.readouterr() == ("", "")
    assert_unchanged(result)
    assert (result.perplexity["change"] == 0).all() and (result.ternary.kinds["before"] > 0).all()


def test_a_model_inside_train_only_has_the_measures_of_the_merged_model():
    plain = tiny_model("llama", torch.float64)
    merged, training = copy.deepcopy(plain), copy.deepcopy(plain)
    for model in (merged, training):
        tuning, generator = pml.train_only(model, random_neurons(model, 0.5)), torch.Generator().manual_seed(5)
        for parameter in tuning.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        if model is merged:
            tuning.merge()
    assert_unchanged(compare(merged, training, texts=TEXTS, sentences=SENTENCES))
    result = compare(plain, training, texts=TEXTS, sentences=SENTENCES)
    assert result.perplexity["change"].abs().min() > 0.01 and result.ternary.kinds.loc["specific", "jaccard"] < 1
    assert result.ilo["ilo_change"].abs().max() > 0.1


@pytest.mark.long
def test_measures_may_take_the_place_of_their_model():
    inputs = {"texts": TEXTS, "sentences": SENTENCES, **OPTIONS, **COMMON}
    expected = compare(*two_models(), **inputs)
    old, new = (pml.measure_model(model, tiny_tokenizer(), **inputs) for model in two_models())
    assert_same(pml.compare_models(old, new), expected)
    assert_same(compare(old, two_models()[1], **inputs), expected)
    assert_same(compare(two_models()[0], new, **inputs), expected)
    only_texts = pml.compare_models(old._replace(ilo=None), new)
    assert only_texts.ilo is None
    assert_same(only_texts[:2], expected[:2])


def test_languages_in_another_order_are_compared_by_name():
    inputs = {"texts": TEXTS, "sentences": SENTENCES}
    reordered = {name: dict(reversed(part.items())) for name, part in inputs.items()}
    old, new, reordered = (
        pml.measure_model(model, tiny_tokenizer(), **inputs, **OPTIONS)
        for model, inputs in zip((*two_models(), two_models()[1]), (inputs, inputs, reordered))
    )
    expected, result = pml.compare_models(old, new), pml.compare_models(old, reordered)
    assert_frame_equal(result.perplexity, expected.perplexity, check_exact=True, check_like=True)
    assert_frame_equal(result.ternary.languages, expected.ternary.languages)
    assert result.ilo[["layer", "language"]].equals(expected.ilo[["layer", "language"]])


def test_wrong_arguments_are_refused():
    before, after = two_models()
    for no_inputs in ({}, {"texts": {}, "sentences": None}):
        with pytest.raises(ValueError, match="there is nothing to measure the model on: give texts or sentences"):
            compare(before, after, **no_inputs)
    with pytest.raises(ValueError, match="different shapes: 2 layers x 37 neurons before, 2 x 41 after"):
        compare(before, tiny_model("llama", intermediate_size=41), texts=TEXTS)
    with pytest.raises(ValueError, match="the models have 2 and 3 layers"):
        compare(before, tiny_model("llama", num_hidden_layers=3), sentences=SENTENCES)
    foreign = {"fr": TEXTS["fr"], "es": TEXTS["de"], "it": TEXTS["it"]}
    for part in ("texts", "sentences"):
        old = pml.measure_model(before, tiny_tokenizer(), **{part: TEXTS}, **OPTIONS)
        with pytest.raises(ValueError, match=f"of the {part} must be the same: fr, de, it before, fr, es, it after"):
            compare(old, after, **{part: foreign})
    with pytest.raises(pml.CorpusError, match=r"fr\.txt: no such file; check the path"):
        compare(before, after, sentences={"fr": "fr.txt", "de": ["w40"], "it": ["w41"]})
    with pytest.raises(ValueError, match="tau = 2 other languages are more than the 1 that there are"):
        # Raised before texts are read.
        compare(before, after, texts={"fr": ["w4"]}, sentences={"fr": ["w4"], "de": ["w40"]})
    with pytest.raises(pml.CorpusError, match="a mapping of 'w4 w5' is not a corpus"):
        compare(before, after, texts={"fr": {"w4 w5": 1}})
    with pytest.raises(ValueError, match="both models are measured already"):
        compare(old, old)
    with pytest.raises(ValueError, match="a model is measured with its tokenizer"):
        pml.compare_models(old, after, sentences=SENTENCES)
    with pytest.raises(pml.CorpusError, match="language 'de': no token to predict"):
        compare(before, after, texts={"fr": TEXTS["fr"], "de": ["", " "]})
