"""Decoders without a head or with another one: importance, counts and masks are those of the decoder."""

import pytest
import torch
import transformers

import pymultiling as pml
from pymultiling.models.loading import load_model, load_without_weights
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

# {what the model is: how transformers makes it of a configuration}
HEADS = {
    "without a head": transformers.AutoModel,
    "a classifier of texts": transformers.AutoModelForSequenceClassification,
    "a classifier of tokens": transformers.AutoModelForTokenClassification,
    "a finder of answers": transformers.AutoModelForQuestionAnswering,
}
# Their base models have different names and outputs. Gemma2 has no class that finds answers.
CASES = [(head, name) for head in HEADS for name in ("llama", "gpt2", "bloom", "mixtral")]
CASES += [(head, "gemma2") for head in list(HEADS)[:3]] + [("a classifier of texts", "opt")]


def with_head(head: str, language_model):
    """Returns a model of the same decoder with another head."""
    model = HEADS[head].from_config(language_model.config).eval()
    model.base_model.load_state_dict(language_model.base_model.state_dict())
    return model


@torch.no_grad()
def output(model) -> torch.Tensor:
    return model(**tiny_batch((9, 9)))[0]


@pytest.mark.parametrize("head, name", CASES, ids=str)
def test_the_decoder_is_measured_as_with_its_language_model_head(head, name):
    """Bit for bit."""
    language_model, tokenizer, corpora = tiny_model(name), tiny_tokenizer(), {"fr": texts("fr")}
    model, options = with_head(head, language_model), {"progress": False}
    measured, truth = (pml.importance(one, **tiny_batch()) for one in (model, language_model))
    assert all(torch.equal(measured[site], truth[site]) for site in pml.SITES)
    counted, expected = (pml.activations(one, tokenizer, corpora, **options) for one in (model, language_model))
    assert torch.equal(counted["fr"].active, expected["fr"].active)
    found, expected = (pml.detect(one, tokenizer, corpora, **options).neurons for one in (model, language_model))
    assert found == expected


@pytest.mark.parametrize("head, name", CASES, ids=str)
def test_neurons_are_off_in_the_whole_model(head, name):
    """Compared with zeroed parameters."""
    language_model = tiny_model(name)
    neurons, model = random_neurons(language_model), with_head(head, language_model)
    zeroed = with_head(head, language_model)
    zeroed.load_state_dict(model.state_dict())
    zeroed.base_model.load_state_dict(with_zeroed_neurons(language_model, neurons).base_model.state_dict())
    plain = output(model)
    with pml.deactivate(model, neurons):
        assert (output(model) - output(zeroed)).abs().max() < 1e-5 * output(zeroed).abs().max()
    assert torch.equal(output(model), plain) and not torch.equal(output(zeroed), plain)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_language_model_head_there_is_neither_perplexity_nor_lens(head):
    model = with_head(head, tiny_model("llama"))
    for function, message in ((pml.perplexity, "does not predict the next token"), (pml.lens, "language-model head")):
        with pytest.raises(pml.UnsupportedModel, match=f"{message}.*load the model with AutoModelForCausalLM"):
            function(model, tiny_tokenizer(), texts("fr") if function is pml.perplexity else {"fr": texts("fr")})


@pytest.mark.parametrize("head", list(HEADS)[1:])
def test_commands_load_it_with_its_head(tmp_path, head):
    model = with_head(head, tiny_model("llama"))
    save_model(tmp_path, model)
    loaded, _ = load_model(str(tmp_path), torch.device("cpu"))
    assert type(loaded) is type(model) and torch.equal(output(loaded), output(model))
    assert type(load_without_weights(str(tmp_path))) is type(model)
