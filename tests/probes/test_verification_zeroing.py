"""spot_check, which `pymultiling doctor` runs: differences are small for a right family and large for a wrong one."""

from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.models.family import Family
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import footprint
from tests.support.tiny_models import MODELS, tiny_model


@pytest.mark.parametrize("name", MODELS)
def test_a_right_family_agrees_and_the_model_stays_as_it_was(name):
    model = tiny_model(name)
    weights, hooks = {key: value.clone() for key, value in model.state_dict().items()}, footprint(model)
    differences = spot_check(model)
    assert set(differences) == set(pml.SITES) and max(differences.values()) < 1e-3, differences
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert footprint(model) == hooks and not model.training


ALL_HEADS = dict(num_key_value_heads=4)  # as many key heads as query heads, so that widths do not show the error


@pytest.mark.parametrize(
    "name, wrong, sites",
    [
        ("llama", dict(q="k_proj", k="q_proj"), "qk"),
        ("llama", dict(k="v_proj", v="k_proj"), "qkv"),
        ("llama", dict(gate="up_proj", up="gate_proj"), ["ffn"]),
        ("llama", dict(activation="gelu"), ["ffn"]),
        ("llama", dict(interleaved=True), "qk"),
        ("llama", dict(rotation=None), "qk"),
        ("llama", dict(scaled_queries=True, interface=False), ""),  # an equivalent description of Llama
        ("gpt_neox", dict(qkv_by_head=False), "qkv"),
        ("gpt2", dict(qkv_by_head=True), "qkv"),
        ("bloom", dict(alibi="scaled"), "qk"),
        ("bloom", dict(alibi=None), "qk"),
        ("glm", dict(half_tables=False), "qk"),
        ("glm", dict(interleaved=False, half_tables=False), "qk"),
        ("olmo", dict(clip=None), "qk"),
        ("qwen3", dict(q_norm=None, k_norm=None), "qk"),
        ("cohere-norms", dict(centred_norms=False), "qk"),
        ("gemma2", dict(norm_offset=0.0), ["ffn", "v", "o"]),
        ("smollm3", dict(rotates=None), "qk"),
        ("xglm", dict(rotation="position_embeddings"), None),
    ],
    ids=str,
)
def test_a_wrong_family_differs_at_the_sites_that_it_describes_wrongly(monkeypatch, name, wrong, sites):
    model = tiny_model(name, **(ALL_HEADS if name == "llama" else {}))
    monkeypatch.setitem(FAMILIES, model.config.model_type, replace(family_of(model), **wrong))
    if sites is None:
        with pytest.raises(pml.UnsupportedModel, match="called without position_embeddings"):
            spot_check(model)
        return
    differences = spot_check(model)
    for site in pml.SITES:
        assert differences[site] > 0.05 if site in sites else differences[site] < 1e-3, (site, differences)


def test_a_model_with_another_activation_does_not_agree():
    model = tiny_model("llama")
    model.model.layers[1].mlp.act_fn = torch.nn.Identity()
    assert spot_check(model)["ffn"] > 0.05


def test_the_defaults_of_family_are_those_of_llama():
    assert FAMILIES["llama"] == Family()
