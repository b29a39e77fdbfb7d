"""Models that are compiled, as a whole or in parts, are measured and changed as they are, or refused in a sentence."""

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.verification.verify import verify
from tests.probes.test_masking import difference
from tests.support import departures
from tests.support.compiling import ways_to_compile
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

CLOSE = 1e-5
BATCH = tiny_batch((9, 9))
WAYS = ways_to_compile("eager")
pytestmark = pytest.mark.usefixtures("reset_compiler")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(**BATCH, use_cache=False).logits


def wrap_linears(model) -> None:
    """Gives every Linear a forward of its own, as accelerate's hooks do."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = lambda x, forward=module.forward: forward(x)


def add_hooks(model) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_hook(lambda *_: None)
        layer.self_attn.q_proj.register_forward_pre_hook(lambda *_: None)


def leave(model) -> None:
    """Leaves the model as it is."""


def assert_deactivates(forward, model) -> None:
    """Compares a compiled model, before and in blocks, with a model that is not compiled."""
    other = tiny_model("llama")
    neurons = random_neurons(other)
    plain = logits(other)
    with pml.deactivate(other, neurons):
        truth = logits(other)
    assert difference(truth, plain) > 1e-2
    for _ in range(2):
        assert difference(logits(forward), plain) < CLOSE
        with pml.deactivate(model, neurons):
            assert difference(logits(forward), truth) < CLOSE
    assert difference(logits(forward), plain) < CLOSE


def assert_measures(forward) -> None:
    for options in (dict(fused=False), dict(fused=True)):
        truth, measured = (pml.importance(each, **BATCH, **options) for each in (tiny_model("llama"), forward))
        assert all(difference(measured[site], truth[site]) < 1e-4 for site in truth)
    sums, measured = (ActivationSumProbe(each).measure(**BATCH) for each in (tiny_model("llama"), forward))
    assert all(difference(measured[name].double(), sums[name].double()) < 1e-4 for name in sums)
    counted = BATCH["attention_mask"].bool()
    counts = [ActivationProbe(each).measure(**BATCH, counted=counted) for each in (tiny_model("llama"), forward)]
    assert torch.equal(*counts)


@pytest.mark.long
@pytest.mark.parametrize("prepare", [leave, wrap_linears, add_hooks])
@pytest.mark.parametrize("way", WAYS)
def test_graphs_that_were_compiled_before_the_block_notice_it(way, prepare):
    """Linears with a forward of their own were called without hooks, since the same forward was set again."""
    model = tiny_model("llama")
    prepare(model)
    forward = WAYS[way](model)
    logits(forward)
    assert_deactivates(forward, forward)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_a_compiled_model_whose_linears_have_a_forward_of_their_own_notices_the_block(backend):
    model = tiny_model("llama")
    wrap_linears(model)
    forward = torch.compile(model, backend=backend)
    logits(forward)
    assert_deactivates(forward, model)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_statistics_of_compiled_parts_are_those_of_the_model(way):
    forward = WAYS[way](tiny_model("llama"))
    logits(forward)
    assert_measures(forward)


DEPARTURES = {
    "adapter": lambda model: departures.replace_linear(model.model.layers[1].mlp, "down_proj", departures.WithAdapter),
    "weight without call": lambda model: departures.read_weights_without_calling(model.model.layers[1].self_attn),
    "activation": lambda model: setattr(model.model.layers[1].mlp, "act_fn", nn.ReLU()),
    "hook": lambda model: model.model.layers[1].self_attn.o_proj.register_forward_hook(departures.double),
    "forward": lambda model: setattr(model.model.layers[1].mlp.act_fn, "forward", lambda x: 0.5 * x),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("departure", DEPARTURES)
def test_departures_are_seen_in_compiled_models_and_nothing_is_compiled_for_it(monkeypatch, departure, way):
    model, other = tiny_model("llama"), tiny_model("llama")
    DEPARTURES[departure](model)
    DEPARTURES[departure](other)
    expected = {found.check for found in verify(Decoder(other)).departures}
    forward = WAYS[way](model)
    frames = torch._dynamo.utils.counters["frames"]
    frames.clear()
    assert {found.check for found in verify(Decoder(forward)).departures} == expected
    assert expected and not frames


@pytest.mark.parametrize("way", ["torch.compile(model)", "layer.compile()", "layer.forward"])
def test_a_hook_of_the_user_that_comes_after_compiling_is_seen(way):
    forward = WAYS[way](model := tiny_model("llama"))
    with pml.deactivate(forward, random_neurons(model)):
        pass
    model.model.layers[1].mlp.down_proj.register_forward_hook(departures.double)
    with pytest.raises(pml.UnsupportedModel, match="down_proj does not return"):
        pml.importance(forward, **BATCH)
