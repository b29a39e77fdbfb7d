"""Importance inside `deactivate` with a mean or a scale, against zeroing one neuron at a time inside the same block."""

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.switched_off import computed_part
from tests.probes.test_scaling import random_mean
from tests.support.anatomy import sizes
from tests.support.brute_force import brute_force
from tests.support.comparison import importance_in_float64, largest_error
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

MEAN = "mean"


def change_of(model, change: str | float) -> dict:
    """Returns the arguments of `deactivate`."""
    return {"mean": random_mean(model)} if change == MEAN else {"scale": change}


# Behind the attention of Gemma 3 there is a norm, and in Gemma 3n the values pass one too.
@pytest.mark.parametrize(
    "name, change",
    [
        *((name, MEAN) for name in ("llama", "gpt_neox", "falcon-new", "opt", "gemma3_text", "gemma3n_text")),
        *((name, scale) for name in ("llama", "gemma3_text") for scale in (2.0, 0.5)),
    ],
)
def test_neurons_of_v_and_o_count_what_they_contribute_while_neurons_of_o_are_changed(name, change):
    """A v neuron does not reach the output through a neuron of o that has a mean; the mean is o's own contribution."""
    model, batch = tiny_model(name, torch.float64), tiny_batch(padding="left")
    neurons = random_neurons(model, fraction=0.4, sites=("o",))
    with pml.deactivate(model, neurons, **change_of(model, change)):
        truth = brute_force(model, **batch)
        measured = importance_in_float64(model, **batch)
    plain = importance_in_float64(model, **batch)
    for site in ("v", "o"):
        assert largest_error(measured[site], truth[site]) < 1e-9, site
        assert largest_error(plain[site], truth[site]) > 1e-3, site


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma3n_text"])
def test_only_the_rows_under_the_set_are_measured_with_its_mean(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    neurons = random_neurons(model, fraction=0.4, sites=("o",))
    with pml.deactivate(model, [None, neurons], mean=random_mean(model)):
        truth = brute_force(model, **batch)
        measured = importance_in_float64(model, **batch)
    assert max(largest_error(measured[site], truth[site]) for site in ("v", "o")) < 1e-9


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_mean_that_is_scaled_by_an_inner_block_is_no_contribution_of_v(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    outer, inner = (random_neurons(model, fraction=0.5, seed=seed, sites=("o",)) for seed in (0, 1))
    with pml.deactivate(model, outer, mean=random_mean(model)), pml.deactivate(model, inner, scale=0.5):
        truth = brute_force(model, **batch)
        measured = importance_in_float64(model, **batch)
    assert max(largest_error(measured[site], truth[site]) for site in ("v", "o")) < 1e-9


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_a_site_asked_for_alone_has_the_same_values(name):
    model, batch = tiny_model(name), tiny_batch()
    neurons = random_neurons(model, sites=("o",))
    with pml.deactivate(model, neurons, mean=random_mean(model)):
        together = pml.importance(model, **batch, sites=("v", "o"))
        for site in ("v", "o"):
            assert torch.equal(pml.importance(model, **batch, sites=(site,))[site], together[site])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_that_are_set_leave_exact_zeros(dtype):
    """Everywhere else the input of o stays as it is."""
    model = tiny_model("llama", dtype, num_hidden_layers=1)
    neurons, mean = random_neurons(model, sites=("o",)), random_mean(model)
    o, seen = model.model.layers[0].self_attn.o_proj, []
    x = torch.randn(2, 5, sizes(model.config)["o"], generator=torch.Generator().manual_seed(0)).to(dtype)
    assert computed_part(o, x) is x
    with pml.deactivate(model, neurons, mean=mean), torch.no_grad():
        o.register_forward_pre_hook(lambda _, args: seen.append(computed_part(o, args[0])))
        o(x)
    assert torch.equal(seen[0], torch.where(neurons.sites["o"][0], 0, x))
