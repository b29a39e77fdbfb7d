"""Weights in 8 bits of torchao: the numbers are those of a copy with the weights that the bits stand for."""

import copy

import peft
import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import weight_of
from pymultiling.passes.identity import model_hash
from pymultiling.probes.verification.entry import verification_of
from tests.support.adapters import adapter_config, draw_adapters
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

# The sums of both models are added up in other orders: sums of 64 products in float32, with errors of up to 64 times
# 6e-8, pass through two layers.
TOLERANCE = 1e-4


def in_8_bits(model):
    """Puts the weights of the layers into 8 bits, and leaves the model as it is otherwise."""
    quantization.quantize_(model.base_model, quantization.Int8WeightOnlyConfig())
    return model


def plain_model(name: str):
    return tiny_model(name, hidden_size=64, intermediate_size=64, head_dim=16)


@pytest.fixture(params=["llama", "gemma2"])
def models(request):
    """Returns a quantised model, and a plain model with its weights."""
    plain = plain_model(request.param)
    quantised = in_8_bits(copy.deepcopy(plain))
    with torch.no_grad():
        for (path, linear), module in zip(plain.base_model.named_modules(), quantised.base_model.modules()):
            if isinstance(linear, nn.Linear):
                weight = weight_of(module)
                assert not torch.equal(weight, linear.weight), path
                assert (weight - linear.weight).abs().max() < 0.01 * linear.weight.abs().max(), path
                linear.weight.copy_(weight)
    return quantised, plain


def test_importance_is_that_of_the_dequantised_copy(models):
    assert verification_of(Decoder(models[0])).departures == ()
    measured, truth = (pml.importance(model, **tiny_batch()) for model in models)
    for site in pml.SITES:
        assert (measured[site] - truth[site]).abs().max() < TOLERANCE * truth[site].max()


def test_neurons_are_off_as_in_the_dequantised_copy(models):
    quantised, plain = models
    neurons, batch = random_neurons(plain), tiny_batch()
    means = {site: torch.full(mask.shape, 0.25) for site, mask in neurons.sites.items()}
    with torch.no_grad():
        before = quantised(**batch).logits
        with pml.deactivate(quantised, neurons):
            off = quantised(**batch).logits
        assert (off - with_zeroed_neurons(plain, neurons)(**batch).logits).abs().max() < TOLERANCE * off.abs().max()
        assert (off - before).abs().max() > 0.01 * off.abs().max()
        with pml.deactivate(quantised, neurons, mean=means):
            off = quantised(**batch).logits
        with pml.deactivate(plain, neurons, mean=means):
            assert (off - plain(**batch).logits).abs().max() < TOLERANCE * off.abs().max()


def test_adapters_of_quantised_modules_are_measured():
    """LoRA on 8 bits. Compared with the same adapter on the weights that the bits stand for."""
    config = adapter_config("LoRA", "llama")
    plain, quantised = plain_model("llama"), in_8_bits(plain_model("llama"))
    for linear, module in zip(plain.base_model.modules(), quantised.base_model.modules()):
        if isinstance(linear, nn.Linear):
            linear.weight.data = weight_of(module)
    models = [peft.get_peft_model(model, copy.deepcopy(config)) for model in (plain, quantised)]
    for model in models:
        draw_adapters(model)
    truth, measured = (pml.importance(model, **tiny_batch()) for model in models)
    for site in pml.SITES:
        assert (measured[site] - truth[site]).abs().max() < TOLERANCE * truth[site].max()


def test_quantised_weights_have_a_hash_and_are_neither_trained_nor_exported(tmp_path):
    first, second = (in_8_bits(tiny_model("llama", seed=seed)) for seed in (0, 1))
    assert model_hash(first) == model_hash(copy.deepcopy(first)) != model_hash(second)
    with pytest.raises(pml.UnsupportedModel, match="is quantised or an adapter"):
        pml.train_only(first, random_neurons(tiny_model("llama")))
    with pytest.raises(pml.UnsupportedModel, match="is quantised or an adapter"):
        pml.export(first, None, random_neurons(tiny_model("llama")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_inputs_in_few_bits_are_refused():
    """Such a module rounds its inputs, too, by their largest one: its output is no linear map of them."""
    model = plain_model("llama")
    quantization.quantize_(model.base_model, quantization.Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(pml.UnsupportedModel, match=r"weight of Int8Tensor: load.*without quantisation"):
        pml.importance(model, **tiny_batch())


OTHERS = {
    "4 bits": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4),
    "8 bits of floating point": lambda: quantization.Float8WeightOnlyConfig(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_weights_that_were_not_compared_are_refused(kind, tmp_path):
    plain, model = plain_model("llama"), plain_model("llama")
    quantization.quantize_(model.base_model, OTHERS[kind]())
    neurons, tokenizer = random_neurons(plain), tiny_tokenizer()
    for call in (
        lambda: pml.importance(model, **tiny_batch()),
        lambda: pml.activations(model, tokenizer, {"fr": texts("fr")}, progress=False),
        lambda: pml.deactivate(model, neurons).__enter__(),
        lambda: pml.export(model, None, neurons, tmp_path / "out"),
    ):
        with pytest.raises(pml.UnsupportedModel, match=r"without quantisation|is quantised"):
            call()
    assert not list(tmp_path.iterdir())
