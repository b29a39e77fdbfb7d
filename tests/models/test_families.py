"""pml.register_family: models of a family that a user adds, and families that are refused."""

import copy

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.families import FAMILIES, register_family
from pymultiling.models.family import Family
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model


@pytest.fixture(autouse=True)
def restore_families(monkeypatch):
    """Restores the registry of families after each test."""
    for name, family in list(FAMILIES.items()):
        monkeypatch.setitem(FAMILIES, name, family)
    yield
    FAMILIES.pop("mine", None)


def renamed_llama():
    """Returns a Llama whose modules have other names."""
    model = copy.deepcopy(tiny_model("llama"))
    model.config.model_type = "mine"
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.output, attention.o_proj = attention.o_proj, nn.Identity()
        layer.feed, layer.mlp = layer.mlp, nn.Identity()
        layer.mlp.forward = lambda x, feed=layer.feed: feed(x)
        attention.o_proj.forward = lambda x, output=attention.output: output(x)
    return model


def test_a_registered_family_is_measured_and_its_neurons_are_deactivated():
    model, batch = renamed_llama(), tiny_batch()
    with pytest.raises(pml.UnsupportedModel, match=r"register_family\('mine', pymultiling.Family"):
        pml.importance(model, **batch)
    register_family("mine", Family(o="output", ffn="feed"))
    result, truth = pml.importance(model, **batch), pml.importance(tiny_model("llama"), **batch)
    assert all(torch.equal(result[site], truth[site]) for site in pml.SITES)
    neurons = random_neurons(tiny_model("llama"))
    with pml.deactivate(model, neurons), pml.deactivate(reference := tiny_model("llama"), neurons):
        assert torch.equal(model(**batch).logits, reference(**batch).logits)


def test_an_entry_may_depend_on_the_configuration():
    register_family("mine", lambda config: Family(o="output", ffn="feed" if config.hidden_size == 32 else "mlp"))
    pml.importance(renamed_llama(), **tiny_batch())


def test_a_known_family_is_replaced_on_request_only():
    with pytest.raises(ValueError, match="'llama' is registered already: pass replace=True"):
        register_family("llama", Family())
    register_family("llama", Family(o="output"), replace=True)
    with pytest.raises(pml.UnsupportedModel, match="looked for output in LlamaAttention"):
        pml.importance(tiny_model("llama"), **tiny_batch())


@pytest.mark.parametrize("wrong", [{"o": "output"}, None, "llama", Family], ids=str)
def test_other_values_than_families_are_refused(wrong):
    with pytest.raises(ValueError, match=r"family must be a pymultiling\.Family or a function that returns one"):
        register_family("mine", wrong)
    assert "mine" not in FAMILIES


@pytest.mark.parametrize(
    "kind, rule",
    [
        (dict(alibi="yes"), 'alibi must be "added", "scaled" or None'),
        (dict(alibi="added", rotation=None), "alibi needs interface=False and rotation=None"),
        (dict(alibi="added", interface=False), "alibi needs interface=False and rotation=None"),
        (dict(q_norm="q_norm"), "give q_norm and k_norm both, or neither"),
        (dict(q_norm="q_norm", k_norm="k_norm", interface=False), "q_norm and k_norm need interface=True"),
        (dict(query_scaling=(0.1, 8), interface=False), "query_scaling needs interface=True and centred"),
        (
            dict(query_scaling=(0.1, 8), centred_norms=True),
            "query_scaling needs interface=True and centred",
        ),
        (dict(norms_behind_rotation=True), "norms_behind_rotation needs q_norm"),
        (dict(half_tables=True), "half_tables needs interleaved=True"),
    ],
    ids=str,
)
def test_families_that_would_be_measured_wrongly_are_refused(kind, rule):
    with pytest.raises(ValueError, match=rule):
        Family(**kind)


def test_a_configuration_without_a_number_of_heads_is_refused():
    model = renamed_llama()
    register_family("mine", Family(o="output", ffn="feed"))
    vars(model.config)["num_attention_heads"] = None
    with pytest.raises(pml.UnsupportedModel, match="no num_attention_heads"):
        pml.importance(model, **tiny_batch())


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused():
    model = renamed_llama()
    register_family("mine", Family(o="output", ffn="feed"))
    model.config.num_attention_heads = 5
    with pytest.raises(pml.UnsupportedModel, match="takes 48 values, which 5 heads cannot share"):
        pml.importance(model, **tiny_batch())


def test_an_activation_that_the_configuration_does_not_name_must_be_given():
    model = renamed_llama()
    register_family("mine", Family(o="output", ffn="feed"))
    vars(model.config)["hidden_act"] = None
    with pytest.raises(pml.UnsupportedModel, match="looked for one of hidden_activation, hidden_act"):
        pml.importance(model, **tiny_batch(), fused=True)
    register_family("mine", Family(o="output", ffn="feed", activation="silu"), replace=True)
    pml.importance(model, **tiny_batch(), score="released")


def test_bloom_in_pieces_and_falcon_with_alibi_and_eager_attention_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="slow_but_exact = False"):
        pml.importance(tiny_model("bloom", pretraining_tp=2, slow_but_exact=True), **tiny_batch())
    pml.importance(tiny_model("bloom", pretraining_tp=2), **tiny_batch())
    with pytest.raises(pml.UnsupportedModel, match="ALiBi twice: load the model with attn_implementation='sdpa'"):
        pml.importance(tiny_model("falcon-alibi", attn_implementation="eager"), **tiny_batch())
    pml.importance(tiny_model("falcon", attn_implementation="eager"), **tiny_batch())
