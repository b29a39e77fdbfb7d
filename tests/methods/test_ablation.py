"""pml.perplexity and pml.ablation_matrix against a plain loop, one text at a time."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import pymultiling as pml
from tests.support.tiny_models import VOCABULARY_SIZE, tiny_model
from tests.support.tiny_text import LANGUAGES, texts, tiny_tokenizer

MODEL, TOKENIZER = tiny_model("llama", torch.float64), tiny_tokenizer()
TEXTS = {language: texts(language, seed=1) for language in LANGUAGES}


@torch.no_grad()
def plain_perplexity(corpus: list[str], max_length: int = 512) -> float:
    losses = []
    for text in corpus:
        ids = TOKENIZER(text)["input_ids"][:max_length]
        logs = MODEL(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-logs[place, token].item() for place, token in enumerate(ids[1:])]
    return math.exp(sum(losses) / len(losses))


def random_set(seed: int) -> pml.NeuronSet:
    generator = torch.Generator().manual_seed(seed)
    widths = {"ffn": 37, "q": 48, "k": 24, "v": 24, "o": 48}
    return pml.NeuronSet({site: torch.rand(2, width, generator=generator) < 0.3 for site, width in widths.items()})


@pytest.mark.parametrize("batch_tokens", [1, 20, 4096])
@pytest.mark.parametrize("max_length", [5, 512])
def test_perplexity_is_that_of_a_loop_over_texts(batch_tokens, max_length):
    perplexity = pml.perplexity(MODEL, TOKENIZER, TEXTS["fr"], max_length=max_length, batch_tokens=batch_tokens)
    assert perplexity == pytest.approx(plain_perplexity(TEXTS["fr"], max_length), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("bos", [True, False])
def test_packed_perplexity_is_over_the_tokens_of_texts_in_their_own_context(bos):
    """No end of a text is predicted, and no text is seen from another one. A long text is measured in documents of 8
    tokens, which repeat a token of the document before them.
    """
    tokenizer, opening, size, losses = tiny_tokenizer(bos=bos), [1] if bos else [], 8, []
    for text in TEXTS["fr"]:
        tokens = [int(word[1:]) for word in text.split()]
        for place in range(0 if bos else 1, len(tokens)):
            # the document that predicts this token: the first has room for size - len(opening), others for one less
            room = size - len(opening)
            start = 0 if place < room else (place - 1) // (room - 1) * (room - 1)
            logs = MODEL(torch.tensor([opening + tokens[start:place]])).logits[0, -1].log_softmax(-1)
            losses.append(-logs[tokens[place]].item())
    expected = math.exp(sum(losses) / len(losses))
    for batch_tokens in (1, 40, 4096):
        measured = pml.perplexity(MODEL, tokenizer, TEXTS["fr"], pack=size, batch_tokens=batch_tokens)
        assert measured == pytest.approx(expected, rel=1e-6)


def test_packing_changes_nothing_for_texts_that_fit():
    assert pml.perplexity(MODEL, TOKENIZER, TEXTS["fr"], pack=32) == pytest.approx(plain_perplexity(TEXTS["fr"]))


def test_every_token_weighs_the_same():
    """The perplexity of a long and a short text is not the mean of their perplexities."""
    both = pml.perplexity(MODEL, TOKENIZER, ["w3 w4 w5 w6 w7", "w8"])
    long, short = (math.log(pml.perplexity(MODEL, TOKENIZER, [text])) for text in ("w3 w4 w5 w6 w7", "w8"))
    assert math.log(both) == pytest.approx((5 * long + short) / 6)


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
def test_matrix_is_that_of_a_loop_over_languages_and_sets(batch_tokens):
    sets = {"a": random_set(0), "b": random_set(1).only("k")}
    matrix = pml.ablation_matrix(MODEL, TOKENIZER, sets, TEXTS, batch_tokens=batch_tokens)
    assert list(matrix.index) == ["none", "a", "b"] and list(matrix.columns) == ["fr", "de"]
    for language, corpus in TEXTS.items():
        plain = plain_perplexity(corpus)
        assert matrix.loc["none", language] == pytest.approx(plain, rel=1e-6)
        for name in ("a", "b"):
            with pml.deactivate(MODEL, sets[name]):
                deactivated = plain_perplexity(corpus)
            assert matrix.loc[name, language] == pytest.approx(deactivated, rel=1e-6)
            assert abs(deactivated - plain) > 1e-3


def test_scaled_and_mean_neurons_are_those_of_deactivate():
    sets, mean = {"a": random_set(0), "b": random_set(1)}, pml.mean_activations(MODEL, TOKENIZER, TEXTS["de"])
    for options in (dict(scale=2.0), dict(mean=mean)):
        matrix = pml.ablation_matrix(MODEL, TOKENIZER, sets, TEXTS, batch_tokens=100, **options)
        for name, neurons in sets.items():
            with pml.deactivate(MODEL, neurons, **options):
                assert matrix.loc[name, "fr"] == pytest.approx(plain_perplexity(TEXTS["fr"]), rel=1e-6)


def test_an_error_names_the_set_that_makes_the_loss_nan():
    broken = tiny_model("llama")
    mean = {"ffn": torch.full((2, 37), torch.nan), "k": torch.zeros(2, 24)}
    sets = {"a": random_set(0).only("k"), "b": random_set(1).only("ffn")}
    with pytest.raises(pml.NonFiniteActivations, match="language 'fr' with set 'b' off"):
        pml.ablation_matrix(broken, TOKENIZER, sets, TEXTS, mean=mean)


def test_a_warning_names_an_empty_set():
    with pytest.warns(UserWarning, match="set 'empty' has no neurons"):
        pml.ablation_matrix(MODEL, TOKENIZER, {"empty": random_set(0) - random_set(0)}, {"fr": TEXTS["fr"]})


def test_any_model_has_a_perplexity():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=VOCABULARY_SIZE)).eval()
    assert 1 < pml.perplexity(model, TOKENIZER, TEXTS["fr"]) < 10 * VOCABULARY_SIZE


def test_a_nan_loss_is_an_error():
    broken = tiny_model("llama")
    broken.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match="the texts: the loss is NaN"):
        pml.perplexity(broken, TOKENIZER, TEXTS["fr"])
    with pytest.raises(pml.NonFiniteActivations, match="language 'fr'"):
        pml.ablation_matrix(broken, TOKENIZER, {}, TEXTS)


def test_a_set_may_not_be_called_none():
    with pytest.raises(ValueError, match="another name"):
        pml.ablation_matrix(MODEL, TOKENIZER, {"none": random_set(0)}, TEXTS)


def test_texts_without_a_token_to_predict_are_refused():
    with pytest.raises(pml.CorpusError, match="at least two tokens"):
        pml.perplexity(MODEL, tiny_tokenizer(bos=False), ["w3", "w4"])
    with pytest.raises(pml.CorpusError, match="'fr'"):
        pml.ablation_matrix(MODEL, TOKENIZER, {}, {"fr": []})


def test_a_text_of_one_token_adds_nothing():
    tokenizer = tiny_tokenizer(bos=False)
    with_short_text = pml.perplexity(MODEL, tokenizer, ["w3 w4 w5", "w6"])
    assert with_short_text == pytest.approx(pml.perplexity(MODEL, tokenizer, ["w3 w4 w5"]))


def test_a_set_of_another_model_is_refused():
    foreign = pml.NeuronSet({"ffn": torch.zeros(2, 36, dtype=torch.bool)})
    with pytest.raises(ValueError, match="set 'a' is of another model"):
        pml.ablation_matrix(MODEL, TOKENIZER, {"a": foreign}, TEXTS)


def test_progress_is_a_line_for_each_language(capsys):
    pml.ablation_matrix(MODEL, TOKENIZER, {"a": random_set(0)}, TEXTS, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(TEXTS)
    for line, (language, corpus) in zip(lines, TEXTS.items()):
        assert line.startswith(f"{language}: perplexity: {len(corpus)} documents, ") and line.endswith(" tokens/s")
