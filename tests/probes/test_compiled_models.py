"""Compiled models are measured, and their neurons are deactivated.

It does not matter whether torch.compile is called before the block or inside it.
"""

import pytest
import torch

import pymultiling as pml
from tests.probes.test_masking import difference
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("reset_compiler")]
CLOSE = 1e-5


@torch.no_grad()
def run(model, batch) -> torch.Tensor:
    return model(**batch, use_cache=False).logits


def run_deactivated(model, batch, *arguments, **options) -> torch.Tensor:
    with pml.deactivate(model, *arguments, **options):
        return run(model, batch)


@pytest.mark.parametrize("name", ["llama", "phi3"])
def test_neurons_of_a_model_that_was_compiled_before_the_block_are_deactivated(name):
    model, batch = tiny_model(name), tiny_batch((9, 9))
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    plain, only_a, rows = run(model, batch), run_deactivated(model, batch, a), run_deactivated(model, batch, [b, a])
    mean = {site: torch.ones(mask.shape) for site, mask in a.sites.items()}
    means = run_deactivated(model, batch, [b, None], mean=mean)
    compiled = torch.compile(model, backend="aot_eager")
    assert difference(run(compiled, batch), plain) < CLOSE
    for _ in range(2):
        with pml.deactivate(model, a):
            assert difference(run(compiled, batch), only_a) < CLOSE
        assert difference(run(compiled, batch), plain) < CLOSE
        with pml.deactivate(model, [b, a]):
            assert difference(run(compiled, batch), rows) < CLOSE
        with pml.deactivate(model, [b, None], mean=mean):
            assert difference(run(compiled, batch), means) < CLOSE


def test_a_model_that_is_compiled_inside_the_block_has_no_graph_break():
    model, batch = tiny_model("qwen3"), tiny_batch((9, 9, 9))
    sets = [random_neurons(model, seed=1), None, random_neurons(model, seed=2)]
    plain, truth = run(model, batch), run_deactivated(model, batch, sets)
    with pml.deactivate(model, sets):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert difference(run(compiled, batch), truth) < CLOSE
    assert difference(run(compiled, batch), plain) < CLOSE


def test_deactivate_accepts_the_compiled_model_itself():
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    neurons = random_neurons(model)
    truth = run_deactivated(model, batch, neurons)
    compiled = torch.compile(model, backend="aot_eager")
    run(compiled, batch)
    with pml.deactivate(compiled, neurons):
        assert difference(run(compiled, batch), truth) < CLOSE
    with pml.deactivate(compiled, [neurons, neurons]):
        assert difference(run(compiled, batch), truth) < CLOSE
        assert compiled.generate(batch["input_ids"], max_new_tokens=2).shape == (2, 11)
    assert "generate" not in vars(compiled) and "generate" not in vars(model)


def test_importance_of_a_model_with_compiled_layers_is_that_of_the_model():
    model, batch = tiny_model("llama"), tiny_batch((9, 7))
    truth = pml.importance(model, **batch)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager")
    run(model, batch)
    result = pml.importance(model, **batch)
    for site in truth:
        assert difference(result[site], truth[site]) < 1e-3, site
