"""Models are verified when they are first used, by every function that needs it, and again when they have changed."""

import gc
import inspect
import weakref

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.activation_sums import ActivationSumProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe, TopTokenProbe
from pymultiling.probes.likelihood import LikelihoodProbe
from pymultiling.probes.verification import entry
from pymultiling.probes.verification import fingerprint as fingerprint_module
from pymultiling.probes.verification.fingerprint import fingerprint
from tests.support import departures
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model


def with_departure_at(site: str):
    """Returns a tiny Llama whose last layer computes something else at one site."""
    model = tiny_model("llama")
    layer = model.model.layers[1]
    parent, name = (layer.mlp, "down_proj") if site == "ffn" else (layer.self_attn, f"{site}_proj")
    departures.replace_linear(parent, name, departures.WithAdapter)
    return model


def uses(model, site: str):
    """Yields the name of a way to use a model, and a function that uses it at one site."""
    batch, neurons = tiny_batch(), random_neurons(model, sites=(site,))
    yield "importance", lambda: pml.importance(model, **batch, sites=site)
    yield "deactivate", lambda: pml.deactivate(model, neurons).__enter__()
    yield "deactivate rows", lambda: pml.deactivate(model, [neurons, None]).__enter__()
    yield "train_only", lambda: pml.train_only(model, neurons).remove()
    yield "sums", lambda: ActivationSumProbe(model, site)
    yield "likelihood", lambda: LikelihoodProbe(model, [neurons]).__enter__()
    if site == "ffn":
        yield "counts", lambda: ActivationProbe(model)


@pytest.mark.parametrize("site", pml.SITES)
def test_every_use_of_a_site_is_refused_and_other_sites_are_not(site):
    for name, use in uses(with_departure_at(site), site):
        with pytest.raises(pml.UnsupportedModel, match=r"_proj does not return.*verify=False"):
            use()
        with entry.unverified():
            use()  # name is in the message of a failure
            assert name
    others = set(pml.SITES) - {site} - ({"q", "k"} & {site} and {"q", "k"}) - ({"v"} if site == "o" else set())
    model = with_departure_at(site)
    assert set(pml.importance(model, **tiny_batch(), sites=others)) == others
    for other in set(pml.SITES) - {site}:
        with pml.deactivate(model, random_neurons(model, sites=(other,))):
            pass


def test_hidden_states_that_are_changed_are_refused():
    model = tiny_model("llama")
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
    for probe in (SentenceMeanProbe, lambda model: TopTokenProbe(model, 3)):
        with pytest.raises(pml.UnsupportedModel, match="does not get the output of the layer before"):
            probe(model)
    pml.importance(model, **tiny_batch())  # each layer is measured by itself


def test_another_activation_is_refused_only_where_the_product_is_computed_here():
    model = tiny_model("llama")
    model.model.layers[0].mlp.act_fn = nn.ReLU()
    for options in (dict(fused=True), dict(score="released", sites="ffn")):
        with pytest.raises(pml.UnsupportedModel, match="fused=False"):
            pml.importance(model, **tiny_batch(), **options)
    with pytest.raises(pml.UnsupportedModel, match=r"is not silu\(gate\) up"):
        ActivationProbe(model)
    pml.importance(model, **tiny_batch(), fused=False)
    pml.importance(model, **tiny_batch(), fused=True, sites=("v", "o"))


def test_scores_are_needed_by_importance_of_q_and_k_alone(monkeypatch):
    model = tiny_model("llama")
    departures.replace_eager_attention(monkeypatch, model, "sink")
    for site in ("q", "k"):
        with pytest.raises(pml.UnsupportedModel, match="computes other attention"):
            pml.importance(model, **tiny_batch(), sites=site)
    pml.importance(model, **tiny_batch(), sites=("ffn", "v", "o"))
    with pml.deactivate(model, random_neurons(model)):
        pass


@pytest.fixture
def verified(monkeypatch) -> list:
    """Returns a list to which the models are added that are verified."""
    models = []
    verify = entry.verify
    monkeypatch.setattr(entry, "verify", lambda decoder: (models.append(decoder.model), verify(decoder))[1])
    return models


def test_a_model_is_verified_once_in_all_its_uses(verified):
    model = tiny_model("llama")
    neurons = random_neurons(model)
    for _ in range(2):
        pml.importance(model, **tiny_batch())
        with pml.deactivate(model, neurons):
            pml.importance(model, **tiny_batch())
            with pml.deactivate(model, neurons):
                ActivationSumProbe(model)
        with pml.train_only(model, neurons), pml.deactivate(model, neurons):
            pass
        SentenceMeanProbe(model.base_model)
        model.train()
        pml.importance(model, **tiny_batch())
        model.eval()
    assert len(verified) == 1


def test_a_model_that_is_first_used_inside_a_block_is_verified_there(verified):
    model = tiny_model("llama")
    with pml.deactivate(model, random_neurons(model), verify=False):
        pml.importance(model, **tiny_batch())
    with pml.train_only(model, random_neurons(model), verify=False), pml.deactivate(model, random_neurons(model)):
        pass
    assert len(verified) == 1


CHANGES = {
    "a hook": lambda model: model.model.layers[1].mlp.register_forward_hook(lambda *_: None),
    "a pre-hook": lambda model: model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: None),
    "a class": lambda model: departures.replace_linear(model.model.layers[1].mlp, "up_proj", departures.WithAdapter),
    "a forward": lambda model: setattr(model.model.layers[1].mlp, "forward", lambda x: x),
    "an activation": lambda model: setattr(model.model.layers[1].mlp, "act_fn", nn.ReLU()),
    "attention": lambda model: model.set_attn_implementation("eager"),
    "dtype": lambda model: model.to(torch.bfloat16),
    "a scale": lambda model: setattr(model.model.layers[1].self_attn, "scaling", 0.5),
    "a window": lambda model: setattr(model.config, "sliding_window", 4),
    "rotation": lambda model: model.config.rope_parameters.update(rope_theta=2e4),
    "positions": lambda model: setattr(model.config, "max_position_embeddings", 128),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_structure_changes_the_fingerprint(change):
    model = tiny_model("llama")
    before = fingerprint(Decoder(model))
    assert fingerprint(Decoder(model)) == before
    CHANGES[change](model)
    assert fingerprint(Decoder(model)) != before


def test_a_class_whose_forward_is_replaced_changes_the_fingerprint(monkeypatch):
    model = tiny_model("llama")
    before = fingerprint(Decoder(model))
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", lambda self, x: x)
    assert fingerprint(Decoder(model)) != before


def test_a_hook_of_the_user_that_comes_and_goes_is_noticed_each_time(verified):
    model = tiny_model("llama")
    for _ in range(2):
        pml.importance(model, **tiny_batch())
        handle = model.model.layers[1].mlp.down_proj.register_forward_hook(departures.double)
        with pytest.raises(pml.UnsupportedModel, match="down_proj does not return"):
            pml.importance(model, **tiny_batch())
        handle.remove()
    assert len(verified) == 4


def test_what_is_kept_does_not_keep_a_model_alive():
    model = tiny_model("llama")
    pml.importance(model, **tiny_batch())
    reference = weakref.ref(model.base_model)
    del model
    gc.collect()
    assert reference() is None


PUBLIC = ("importance", "detect", "activations", "mean_activations", "deactivate", "train_only", "lens",
          "ablation_matrix", "sentence_embeddings")  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_verification_can_be_switched_off(name):
    assert inspect.signature(getattr(pml, name)).parameters["verify"].default is True


def test_verify_false_uses_the_model_as_it_is(verified):
    model = with_departure_at("ffn")
    neurons = random_neurons(model)
    pml.importance(model, **tiny_batch(), verify=False)
    with pml.deactivate(model, neurons, verify=False), pml.train_only(model, neurons, verify=False):
        pass
    assert verified == []


def test_another_thread_may_add_hooks_while_the_fingerprint_is_computed(monkeypatch):
    """As if the threads switched after every hook."""
    model = tiny_model("llama")
    down, is_ours = model.model.layers[0].mlp.down_proj, fingerprint_module.is_ours

    def add_a_hook(hook):
        down.register_forward_pre_hook(lambda module, args: None)
        return is_ours(hook)

    down.register_forward_pre_hook(lambda module, args: None)
    monkeypatch.setattr(fingerprint_module, "is_ours", add_a_hook)
    fingerprint(Decoder(model))
    assert len(down._forward_pre_hooks) == 2
