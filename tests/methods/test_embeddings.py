"""pml.sentence_embeddings against means of transformers' hidden states, with one sentence in each forward."""

import numpy
import pytest
import torch

import pymultiling as pml
from pymultiling import demo_model
from pymultiling.methods.embeddings import checked_layers, layer_points, sentence_embeddings
from tests.support.tiny_models import ENCODERS, REPRESENTATIVE_MODELS, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

SENTENCES = {"fr": texts("fr"), "de": [*texts("de"), "w40"]}


def plain_means(model, tokenizer, text: str, length: int) -> torch.Tensor:
    """Returns (layers + 1, hidden): the means of one sentence, run without padding."""
    tokens = torch.tensor([tokenizer(text)["input_ids"][:length]])
    with torch.no_grad():
        hidden = model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    wide = torch.promote_types(hidden[0].dtype, torch.float32)
    return torch.stack([states[0].to(wide).mean(0) for states in hidden])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*REPRESENTATIVE_MODELS, *ENCODERS])
def test_means_are_those_of_transformers(name, dtype):
    model, tokenizer = tiny_model(name, dtype), tiny_tokenizer()
    embeddings = sentence_embeddings(model, tokenizer, SENTENCES, max_length=10, batch_tokens=24, dtype=dtype)
    for language, sentences in SENTENCES.items():
        expected = torch.stack([plain_means(model, tokenizer, text, 10) for text in sentences])
        assert embeddings[language].shape == (len(sentences), 3, 32) and embeddings[language].dtype == dtype
        torch.testing.assert_close(embeddings[language], expected, rtol=1e-5, atol=1e-5)
    assert embeddings.corpora["fr"].texts == 6 and embeddings.corpora["fr"].cut == 1


def test_bfloat16_models_and_half_precision_results_have_the_means_to_their_precision():
    model, tokenizer = tiny_model("llama", torch.bfloat16), tiny_tokenizer()
    embeddings = sentence_embeddings(model, tokenizer, SENTENCES, batch_tokens=1)["fr"]
    expected = torch.stack([plain_means(model, tokenizer, text, 64) for text in SENTENCES["fr"]])
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-5)
    half = sentence_embeddings(model, tokenizer, SENTENCES, batch_tokens=1, dtype=torch.float16)["fr"]
    assert torch.equal(half, embeddings.half())


def test_a_model_with_hidden_states_of_two_widths_is_refused():
    with pytest.raises(pml.UnsupportedModel, match="OPTForCausalLM projects its last hidden states to another width"):
        sentence_embeddings(tiny_model("opt-post-norm"), tiny_tokenizer(), SENTENCES)


def test_missing_sentences_are_nan_and_the_others_stay_in_their_places():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    whole = sentence_embeddings(model, tokenizer, SENTENCES)["fr"]
    with_missing = [None, *SENTENCES["fr"][:3], "", " \n", *SENTENCES["fr"][3:]]
    embeddings = sentence_embeddings(model, tokenizer, {"fr": iter(with_missing)})
    present = torch.tensor([False, True, True, True, False, False, True, True, True])
    torch.testing.assert_close(embeddings["fr"][present], whole)
    assert embeddings["fr"][~present].isnan().all()
    assert embeddings.corpora["fr"].texts == 9 and embeddings.corpora["fr"].empty == 3
    points, is_present = layer_points(embeddings, 1)["fr"]
    assert torch.equal(is_present, present)
    assert torch.equal(points[is_present], embeddings["fr"][present][:, 1])


def test_sentences_without_a_token_are_missing():
    tokenizer = tiny_tokenizer(bos=False)
    embeddings = sentence_embeddings(tiny_model("llama"), tokenizer, {"fr": ["w4", "\x1f", "w5"]})
    assert embeddings["fr"].isnan().any(-1).any(-1).tolist() == [False, True, False]


def test_many_sentences_stay_in_order():
    """There are more sentences than are tokenised at a time, and more than are sorted by length at a time."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    sentences = texts("fr", [1 + number % 5 for number in range(1100)])
    sentences[300] = None
    embeddings = sentence_embeddings(model, tokenizer, {"fr": sentences})["fr"]
    for number in (0, 299, 301, 1023, 1024, 1099):
        torch.testing.assert_close(
            embeddings[number], plain_means(model, tokenizer, sentences[number], 64), rtol=1e-5, atol=1e-5
        )
    assert embeddings.isnan().any(-1).any(-1).nonzero().tolist() == [[300]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_files_hold_the_embeddings_that_memory_would_hold(tmp_path, dtype):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    sentences = {"fr": [*SENTENCES["fr"], None], "de": SENTENCES["de"]}
    in_memory = sentence_embeddings(model, tokenizer, sentences, dtype=dtype)
    from_files = sentence_embeddings(model, tokenizer, sentences, dtype=dtype, folder=tmp_path / "points")
    assert sorted(path.name for path in (tmp_path / "points").iterdir()) == ["de.npy", "fr.npy"]
    for language in sentences:
        read = torch.from_numpy(numpy.load(tmp_path / "points" / f"{language}.npy", mmap_mode="c"))
        for embeddings in (from_files[language], read):
            assert torch.equal(embeddings.nan_to_num(7), in_memory[language].nan_to_num(7))
            assert embeddings.dtype == dtype
    with pytest.raises(ValueError, match="'a/b' cannot be a file name"):
        sentence_embeddings(model, tokenizer, {"a/b": ["w4"]}, folder=tmp_path)


def test_embeddings_of_a_trained_model_with_subwords_are_finite():
    model, tokenizer = demo_model.load()
    pair = {"en": ["The house is big.", "I am a doctor."], "de": ["Das Haus ist groß.", "Ich bin ein Arzt."]}
    embeddings = sentence_embeddings(model, tokenizer, pair)
    assert embeddings["en"].shape == (2, 7, 224) and embeddings["en"].isfinite().all()


def test_wrong_arguments_are_refused():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(pml.CorpusError, match="no sentences were given"):
        sentence_embeddings(model, tokenizer, {})
    with pytest.raises(pml.CorpusError, match="'fr' has no sentences: texts 2, empty 2"):
        sentence_embeddings(model, tokenizer, {"fr": ["", None]})
    with pytest.raises(pml.CorpusError, match="'fr' has no sentences: nothing was read"):
        sentence_embeddings(model, tokenizer, {"fr": []})
    with pytest.raises(pml.CorpusError, match="w4 w5: no such file"):  # a string is a path
        sentence_embeddings(model, tokenizer, {"fr": "w4 w5"})
    with pytest.raises(pml.CorpusError, match="'fr', sentence 2: expected a string or None, got 3"):
        sentence_embeddings(model, tokenizer, {"fr": ["w4", 3]})
    with pytest.raises(ValueError, match="dtype must be one of"):
        sentence_embeddings(model, tokenizer, {"fr": ["w4"]}, dtype=torch.int8)
    with pytest.raises(ValueError, match="at least two languages"):
        checked_layers({"fr": torch.zeros(2, 3, 4)})
    with pytest.raises(ValueError, match=r"'de': embeddings must be .* got \(2, 3\)"):
        checked_layers({"fr": torch.zeros(2, 3, 4), "de": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="of one model"):
        checked_layers({"fr": torch.zeros(2, 3, 4), "de": torch.zeros(2, 3, 5)})


def test_sources_that_are_no_iterable_of_strings_are_refused(tmp_path):
    with pytest.raises(pml.CorpusError, match=r"fr.txt: no such file"):
        sentence_embeddings(tiny_model("llama"), tiny_tokenizer(), {"fr": tmp_path / "fr.txt"})
    for wrong in (3, {"w4": 1}):
        with pytest.raises(pml.CorpusError, match="'fr': pass its sentences as a list of strings"):
            sentence_embeddings(tiny_model("llama"), tiny_tokenizer(), {"fr": wrong})


def test_replaced_characters_are_counted():
    embeddings = sentence_embeddings(tiny_model("llama"), tiny_tokenizer(), {"fr": ["w4 \ud800 w5", "w6"]})
    assert embeddings.corpora["fr"].replaced == 1


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(pml.CorpusError, match="has no sentences"):
        sentence_embeddings(tiny_model("llama"), tiny_tokenizer(), {"fr": [""]}, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_names_the_language_and_sentence_of_a_nan():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.model.embed_tokens.weight.data[40] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match="'de', document 4 of its corpus: hidden states of index 0"):
        sentence_embeddings(model, tokenizer, {"fr": ["w4"], "de": [None, "w41", "w42", "w40 w43"]})
    model = tiny_model("llama")
    model.model.embed_tokens.weight.data[4] = 1e6
    with pytest.raises(pml.NonFiniteActivations, match=r"too large for torch.float16: use torch.float32"):
        sentence_embeddings(model, tokenizer, {"fr": ["w4"]}, dtype=torch.float16)


def test_hooks_and_training_mode_are_left_as_they_were():
    model, tokenizer = tiny_model("llama").train(), tiny_tokenizer()
    sentence_embeddings(model, tokenizer, {"fr": ["w4"]})
    assert model.training and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_sentences_of_a_file_are_those_of_a_list(tmp_path):
    sentences = ["w3 w4 w5", "", "w6 w7"]
    path = tmp_path / "fr.txt"
    path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    of_list, of_file = (sentence_embeddings(model, tokenizer, {"fr": source}) for source in (sentences, path))
    torch.testing.assert_close(of_file["fr"], of_list["fr"], rtol=0, atol=0, equal_nan=True)
