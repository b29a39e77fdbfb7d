"""The verification switches neurons off as `deactivate` does, and names modules that do not notice it."""

import types
from dataclasses import replace

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.ops import gated_ffn
from pymultiling.probes.verification import ffn
from pymultiling.probes.verification.verify import verify
from tests.probes.test_verification_departures import LAYER, failed
from tests.support.anatomy import experts_of
from tests.support.tiny_models import random_neurons, tiny_model


def read_earlier_input(projection: nn.Module) -> None:
    """Makes a projection multiply the input that a hook of the user has kept, before other hooks change it."""
    kept, forward = [], projection.forward
    projection.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    projection.forward = lambda x: forward(kept.pop())


def read_earlier_output(attention: nn.Module, name: str) -> None:
    """Makes an attention use a projection's output that a hook of the user has kept, before other hooks change it."""
    projection, kept = getattr(attention, name), []
    projection.register_forward_hook(lambda _, args, output: kept.append(output))

    class Reads(nn.Module):
        def forward(self, x):
            projection(x)
            return kept.pop()

    def forward(self, *args, **kwargs):
        self._modules[name] = Reads()
        try:
            return type(self).forward(self, *args, **kwargs)
        finally:
            self._modules[name] = projection

    attention.forward = types.MethodType(forward, attention)


def refuses(model, site: str) -> bool:
    """Whether `deactivate` refuses the model for neurons of a site."""
    try:
        with pml.deactivate(model, random_neurons(model, sites=(site,))):
            return False
    except pml.UnsupportedModel:
        return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name, site", [("o_proj", "o"), ("down_proj", "ffn")])
def test_a_projection_that_does_not_read_the_changed_input_fails_at_its_site_alone(name, site, dtype):
    model = tiny_model("llama", dtype)
    layer = model.model.layers[LAYER]
    read_earlier_input(getattr(layer.mlp if site == "ffn" else layer.self_attn, name))
    sentences = failed(model)
    assert set(sentences) == {site}
    assert f"{name} does not return what zeroed columns of its weight give" in sentences[site]
    assert {other for other in pml.SITES if refuses(model, other)} == {site}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("site", "qkv")
def test_an_attention_that_does_not_read_the_changed_output_fails_at_its_site(site, dtype):
    model = tiny_model("llama", dtype)
    read_earlier_output(model.model.layers[LAYER].self_attn, f"{site}_proj")
    assert set(failed(model)) == {site, "scores"} | ({"values"} if site == "v" else set())
    assert {other for other in pml.SITES if refuses(model, other)} == {site}


def test_an_attention_without_an_interface_that_does_not_read_the_changed_output_fails():
    model = tiny_model("bloom")
    read_earlier_output(model.transformer.h[LAYER].self_attention, "query_key_value")
    assert set(failed(model)) == {"q", "k", "v", "values", "scores"}


def test_experts_whose_output_a_hook_computes_from_unchanged_weights_are_named():
    model = tiny_model("mixtral")
    experts = experts_of(model.model.layers[LAYER])
    experts.register_forward_hook(lambda module, args, output: type(module).forward(module, *args))
    sentences = failed(model)
    assert set(sentences) == {"ffn"}
    assert "experts does not return what zeroed columns of its weights give" in sentences["ffn"]


def test_an_operator_that_computes_another_product_fails_where_it_is_used(monkeypatch):
    model = tiny_model("llama")

    def wrong(*args, **options):
        result = gated_ffn(*args, **options)
        return result._replace(hidden=result.hidden * 1.001)

    monkeypatch.setattr(ffn, "gated_ffn", wrong)
    sentences = failed(model)
    assert set(sentences) == {"product"} and "the operator gated_ffn does not give" in sentences["product"]


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_a_clip_in_place_that_the_family_lacks_is_named_also_where_nothing_is_clipped(monkeypatch, limit):
    model = tiny_model("olmo", clip_qkv=limit)
    assert failed(model) == {}
    monkeypatch.setitem(FAMILIES, "olmo", replace(family_of(model), clip=None))
    sentences = failed(model)
    assert set(sentences) == {"scores"}
    assert "self_attn changes the output of" in sentences["scores"] and "set `clip`" in sentences["scores"]


def test_inside_a_block_in_all_threads_nothing_that_it_changes_is_called_wrong():
    model = tiny_model("llama")
    with pml.deactivate(model, random_neurons(model), threads="all", verify=False):
        assert not verify(Decoder(model)).departures
    assert not verify(Decoder(model)).departures
