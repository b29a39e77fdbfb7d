"""The operators that are named for a site are those that its measurement calls, in models of every family."""

import pytest

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.ops.recorded_calls import RecordedCalls
from pymultiling.probes.site_operators import site_operators
from tests.support.tiny_models import ENCODERS, FURTHER_MODELS, MODELS, PAIRS, tiny_batch, tiny_model


@pytest.mark.parametrize("name", [*MODELS, *FURTHER_MODELS, *ENCODERS, *PAIRS])
def test_the_named_operators_are_called(name):
    """value_gram, a product of weights, is called beside value_energy."""
    model, batch = tiny_model(name), tiny_batch()
    pml.importance(model, **batch)  # the verification comes before the first one
    named = site_operators(Decoder(model))
    for site in pml.SITES:
        with RecordedCalls() as calls:
            pml.importance(model, **batch, sites=site)
        assert set(calls.largest) - {"value_gram"} == set(named[site]) != set()
        layers = {layer for numbers in named[site].values() for layer in numbers}
        assert sorted(layers) == Decoder(model).layers_of(site)
