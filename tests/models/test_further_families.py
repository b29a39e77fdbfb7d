"""Families whose entries combine what other families have, against brute force in tiny models of their own classes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES
from pymultiling.probes import importance
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import difference
from tests.support.anatomy import has_site
from tests.support.comparison import (
    TOLERANCE,
    brute_force_importance,
    importance_in_float64,
    largest_error,
    set_attention,
)
from tests.support.tiny_models import (
    ENCODERS,
    FURTHER_MODELS,
    PAIRS,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)
from tests.support.tiny_text import texts, tiny_tokenizer

ALL = FURTHER_MODELS | ENCODERS | PAIRS


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("name", ALL)
def test_importance_is_brute_force(name, padding):
    truth, batch = brute_force_importance(name, padding), tiny_batch(padding=padding)
    for dtype in (torch.float64, torch.float32):
        measure = importance_in_float64 if dtype == torch.float64 else pml.importance
        result = measure(tiny_model(name, dtype), **batch)
        errors = {site: largest_error(result[site], truth[site]) for site in truth}
        assert set(result) == set(pml.SITES) and max(errors.values()) < TOLERANCE[dtype], errors
    config = tiny_model(name).config
    for site, values in truth.items():
        layers = range(values.shape[1])
        has_neurons = torch.tensor([has_site(config, site, layer) for layer in layers])
        assert ((values > 0).any(-1) == has_neurons).all()


@torch.no_grad()
@pytest.mark.parametrize("name", FURTHER_MODELS)
def test_deactivated_neurons_act_as_zeroed_ones(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    neurons = random_neurons(model)
    plain = model(**batch, use_cache=False).logits
    with pml.deactivate(model, neurons):
        deactivated = model(**batch, use_cache=False).logits
    truth = with_zeroed_neurons(model, neurons)(**batch, use_cache=False).logits
    assert difference(deactivated, truth) < 1e-5 < 1e-2 < difference(plain, truth)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL)
def test_verification_finds_no_departure(name, dtype, attention):
    model = set_attention(tiny_model(name, dtype), attention)
    assert verify(Decoder(model)).departures == ()


@torch.no_grad()
@pytest.mark.parametrize("name", FURTHER_MODELS)
def test_rows_generate_under_their_own_sets(name):
    """What is generated is what a copy with zeroed neurons generates, and without a set what the model generates."""
    model, batch = tiny_model(name), tiny_batch((7, 4), padding="left")
    neurons = random_neurons(model)
    options = dict(max_new_tokens=5, do_sample=False)
    with pml.deactivate(model, [neurons, None], rows=[0, 1]):
        tokens = model.generate(**batch, **options)
    assert torch.equal(tokens[0], with_zeroed_neurons(model, neurons).generate(**batch, **options)[0])
    assert torch.equal(tokens[1], model.generate(**batch, **options)[1])


@pytest.mark.parametrize(
    "name",
    [
        "afmoe",
        "biogpt",
        "codegen",
        "ctrl",
        "flex_olmo",
        "gemma4_unified_text",
        "gpt_neo",
        "gptj",
        "granite_swa",
        "modernbert-decoder",
        "mpt",
        "nanochat",
        "openai-gpt",
        "phi4_multimodal",
    ],
)
def test_doctor_finds_agreement(name):
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "ctrl", "modernbert-decoder", "opt-post-norm"])
def test_perplexity_is_that_of_the_logits(name):
    """Also where transformers' get_decoder gives the head (ModernBERT's decoder), or a part of the base model (OPT)."""
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    likelihoods = []
    for text in texts("fr"):
        tokens = torch.tensor([tokenizer(text)["input_ids"]])
        logits = model(tokens, use_cache=False).logits[0, :-1].double()
        likelihoods.append(logits.log_softmax(-1).gather(1, tokens[0, 1:, None]))
    expected = torch.cat(likelihoods).mean().neg().exp().item()
    assert pml.perplexity(model, tokenizer, texts("fr"), progress=False) == pytest.approx(expected, rel=1e-5)


def test_another_activation_with_the_same_parameters_is_named(monkeypatch):
    model = tiny_model("apertus")
    activation = model.model.layers[1].mlp.act_fn
    monkeypatch.setattr(activation, "forward", lambda x: 1.01 * activation._xielu_python(x))
    (departure,) = verify(Decoder(model)).departures
    assert departure.check == "product" and "layers.1.mlp's down projection is not xielu(up)" in departure.sentence
    pml.importance(model, **tiny_batch())  # which reads the input of the down projection
    with pytest.raises(pml.UnsupportedModel, match="the FFN's activation is 'xielu'; looked for one of silu"):
        pml.activations(model, None, {"fr": ["w3 w9"]})


@pytest.mark.parametrize("name", ["apertus", "nemotron"])
def test_activations_that_gated_ffn_lacks_are_measured_without_it_on_a_gpu_too(monkeypatch, name):
    model, batch = tiny_model(name), tiny_batch()
    expected = pml.importance(model, **batch)
    monkeypatch.setattr(importance, "device_of", lambda linear: SimpleNamespace(type="cuda"))
    measured = pml.importance(model, **batch)
    assert all(torch.equal(measured[site], expected[site]) for site in pml.SITES)
    assert pml.importance(model, **batch, score="released")["ffn"].min() > 0


@pytest.mark.parametrize("name", ["hunyuan_v1_dense", "qwen3"])
def test_an_entry_with_the_norms_on_the_other_side_of_the_rotation_is_refused(monkeypatch, name):
    family = FAMILIES[name]
    other = replace(family, norms_behind_rotation=not family.norms_behind_rotation)
    monkeypatch.setitem(FAMILIES, name, other)
    with pytest.raises(pml.UnsupportedModel, match="does not pass on the q heads that the norms, clip and rotation"):
        pml.importance(tiny_model(name), **tiny_batch(), sites=("q", "k"))
