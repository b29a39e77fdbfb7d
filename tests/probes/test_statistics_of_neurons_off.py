"""Statistics inside `deactivate` against those of a copy of the model in which the parameters are zero."""

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe
from tests.support.tiny_models import (
    REPRESENTATIVE_MODELS,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)


def counts(model, batch) -> torch.Tensor:
    return ActivationProbe(model).measure(**batch, counted=batch["attention_mask"].bool())


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_neurons_that_are_off_are_counted_as_in_the_zeroed_model(name):
    # float64, so that no gate changes its sign by rounding. Eager attention gives NaN for padding in float64.
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons, more = random_neurons(model, sites=["ffn"]), random_neurons(model, seed=1)
    expected = counts(with_zeroed_neurons(model, neurons | more), batch)
    assert counts(model, batch)[neurons.sites["ffn"]].any() and not expected[neurons.sites["ffn"]].any()
    with pml.deactivate(model, neurons), pml.deactivate(model, more):
        assert torch.equal(counts(model, batch), expected)


@pytest.mark.parametrize("name", ["llama", "phi3-partial-rotary", "opt", "mixtral"])
def test_each_row_is_counted_under_its_own_set(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    plain, zeroed = (
        ActivationProbe(m).measure(**{key: value[row : row + 1] for key, value in batch.items()}, counted=counted)
        for m, row, counted in (
            (model, 0, torch.ones(1, 9, dtype=torch.bool)),
            (with_zeroed_neurons(model, neurons), 1, torch.ones(1, 9, dtype=torch.bool)),
        )
    )
    with pml.deactivate(model, [None, neurons]):
        assert torch.equal(counts(model, batch), plain + zeroed)


@pytest.mark.parametrize("score", ["importance", "released"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_importance_of_neurons_that_are_off_is_that_of_the_zeroed_model(name, score):
    """Both scores, because the released one reads the up projection, before `deactivate` changes anything."""
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model, sites=["ffn"])
    with ImportanceProbe(with_zeroed_neurons(model, neurons), ("ffn",), score=score) as probe:
        expected = probe.measure(**batch)["ffn"]
    with pml.deactivate(model, neurons), ImportanceProbe(model, ("ffn",), score=score) as probe:
        measured = probe.measure(**batch)["ffn"]
    assert not measured[:, neurons.sites["ffn"]].any() and not expected[:, neurons.sites["ffn"]].any()
    torch.testing.assert_close(measured, expected, rtol=1e-9, atol=1e-9)


def test_scaled_neurons_count_as_the_model_computes_their_gate():
    model, batch = tiny_model("llama", torch.float64, num_hidden_layers=1), tiny_batch((9, 9))
    plain = counts(model, batch)
    with pml.deactivate(model, random_neurons(model, sites=["ffn"]), scale=2.0):
        assert torch.equal(counts(model, batch), plain)
