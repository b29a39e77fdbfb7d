"""Mixture-of-experts models with implementations other than "eager", and models that cannot be measured."""

import pytest
import torch

import pymultiling as pml
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.probes.test_scaling import with_scaled_neurons
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

NOT_EAGER = pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])


def both(implementation: str) -> list:
    """Returns models with the same weights and this implementation of experts, and the eager one."""
    return [tiny_model("qwen3_moe", experts_implementation=name) for name in (implementation, "eager")]


@NOT_EAGER
@pytest.mark.parametrize("score", ["importance", "released"])
def test_importance_agrees_with_eager_experts_to_rounding(implementation, score):
    result, truth = (pml.importance(model, **tiny_batch(), score=score) for model in both(implementation))
    for site in pml.SITES:
        torch.testing.assert_close(result[site], truth[site], rtol=1e-3, atol=1e-6 * truth[site].max().item())


@NOT_EAGER
def test_means_agree_with_eager_experts_to_rounding(implementation):
    result, truth = (pml.mean_activations(model, tiny_tokenizer(), texts("fr")) for model in both(implementation))
    for site in pml.SITES:
        torch.testing.assert_close(result[site], truth[site], rtol=1e-4, atol=1e-5)


@NOT_EAGER
def test_sets_are_switched_off_and_on_again(implementation):
    model, batch = tiny_model("qwen3_moe", experts_implementation=implementation), tiny_batch((9, 9))
    a, b, plain = random_neurons(model, seed=1), random_neurons(model, seed=2), logits(model, batch)
    without_a, without_b = (logits(with_zeroed_neurons(model, neurons), batch) for neurons in (a, b))
    assert min(difference(plain, without_a), difference(without_a, without_b)) > 1e-2
    with pml.deactivate(model, a):
        assert difference(logits(model, batch), without_a) < TOLERANCE[torch.float32]
    with pml.deactivate(model, [b, a]):
        result = logits(model, batch)
    assert difference(result[:9], without_b[:9]) < TOLERANCE[torch.float32]
    assert difference(result[9:], without_a[9:]) < TOLERANCE[torch.float32]
    assert torch.equal(logits(model, batch), plain)


@pytest.mark.long
@torch.no_grad()
def test_sets_are_switched_off_in_compiled_models():
    torch.compiler.reset()
    model = tiny_model("mixtral", experts_implementation="batched_mm", num_hidden_layers=1)
    sets, batch = [random_neurons(model, seed=1), random_neurons(model, seed=2)], tiny_batch((9, 9))
    plain, compiled = logits(model, batch), torch.compile(model, backend="aot_eager")
    with pml.deactivate(model, sets):
        truth = logits(model, batch)
    for _ in range(2):
        assert difference(logits(compiled, batch), plain) < TOLERANCE[torch.float32]
        with pml.deactivate(model, sets):
            assert difference(logits(compiled, batch), truth) < TOLERANCE[torch.float32]
    torch.compiler.reset()


def test_under_autocast_scaled_activations_are_scaled_parameters():
    """Doubling a bfloat16 number is exact, so both round in the same way and route each token to the same experts."""
    model, batch = tiny_model("mixtral"), tiny_batch((9, 9))
    neurons = random_neurons(model)
    with torch.autocast("cpu", torch.bfloat16):
        truth = logits(with_scaled_neurons(model, neurons, 2.0), batch)
        with pml.deactivate(model, neurons, scale=2.0):
            assert torch.equal(logits(model, batch), truth)


def test_nan_weights_of_experts_are_reported_with_their_layer():
    model = tiny_model("mixtral")
    model.model.layers[1].mlp.experts.down_proj.data[:, :, 3] = torch.nan
    with pytest.raises(pml.NonFiniteActivations, match="site ffn, layer 1, document 1 of"):
        pml.importance(model, **tiny_batch())
    with pytest.raises(pml.NonFiniteActivations, match="site ffn, layer 1"):
        pml.activations(model, tiny_tokenizer(), {"fr": texts("fr")}, progress=False)


def test_weights_that_are_not_in_memory_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="offloaded"):
        pml.importance(tiny_model("mixtral").to("meta"), **tiny_batch())


def test_a_norm_beside_a_shared_expert_that_the_layer_adds_is_refused():
    with pytest.raises(ValueError, match="ffn_norm needs shared_expert_in_layer=False"):
        pml.Family(experts="experts", ffn_norm="norm", shared_expert="shared", shared_expert_in_layer=True)


@pytest.mark.parametrize("name", ["afmoe", "axk1", "dbrx", "flex_olmo", "kolibri1", "laguna"])
def test_neurons_that_are_off_have_no_importance_also_behind_a_norm(name):
    model = tiny_model(name)
    neurons = random_neurons(model, sites=("ffn",))
    off = neurons.sites["ffn"]
    plain = pml.importance(model, **tiny_batch(), sites=("ffn",))["ffn"]
    with pml.deactivate(model, neurons):
        result = pml.importance(model, **tiny_batch(), sites=("ffn",))["ffn"]
    assert (result[:, off] == 0).all() and (plain[:, off] > 0).any() and (result[:, ~off] > 0).any()
