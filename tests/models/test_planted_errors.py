"""Models of further families that compute something else than their entry says are refused at first use."""

import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES
from pymultiling.probes.verification.verify import verify
from tests.support.anatomy import attention_of, experts_of, ffn_of, layers_of, shared_expert_of
from tests.support.tiny_models import tiny_batch, tiny_model

LAYER = 1
ROTATIONS = ("apply_rotary_pos_emb", "apply_rotary_emb")


def rotate_nothing(model):
    """Replaces the function that rotates queries and keys by one that returns them."""
    source = sys.modules[type(attention_of(layers_of(model)[LAYER], model.config)).__module__]
    (name,) = (name for name in ROTATIONS if hasattr(source, name))
    return mock.patch.object(source, name, lambda q, k, *args, **kwargs: (q, k))


def hide_the_last_key(model):
    """Lets the attention of every layer but the first see fewer keys."""
    source = sys.modules[type(attention_of(layers_of(model)[LAYER], model.config)).__module__]
    original = source.eager_attention_forward

    def attend(module, query, key, value, attention_mask, **kwargs):
        if module.layer_idx == LAYER:
            hidden = torch.zeros(query.shape[2], key.shape[2], dtype=query.dtype)
            hidden[3:, 2] = torch.finfo(query.dtype).min
            attention_mask = hidden if attention_mask is None else attention_mask + hidden
        return original(module, query, key, value, attention_mask, **kwargs)

    model.set_attn_implementation("eager")
    return mock.patch.object(source, "eager_attention_forward", attend)


def forget_sinks(model):
    """Lets the attention of a layer have no sinks, after the model was found to have them."""
    source = sys.modules[type(attention_of(layers_of(model)[LAYER], model.config)).__module__]
    original = source.eager_attention_forward

    def attend(module, *args, **kwargs):
        if module.sinks is None:
            return original(module, *args, **kwargs)
        sinks = module.sinks.data.clone()
        module.sinks.data.fill_(-30.0)
        try:
            return original(module, *args, **kwargs)
        finally:
            module.sinks.data.copy_(sinks)

    return mock.patch.object(source, "eager_attention_forward", attend)


def hide_the_last_key_itself(model):
    """Does as `hide_the_last_key` does, in an attention that does not use transformers' interface."""
    attention = attention_of(layers_of(model)[LAYER], model.config)
    original = attention._attn

    def attend(query, key, value, attention_mask=None, *args, **kwargs):
        length = query.shape[2]
        hidden = torch.zeros(length, length, dtype=query.dtype)
        hidden[3:, 2] = -1e4
        return original(
            query, key, value, hidden if attention_mask is None else attention_mask + hidden, *args, **kwargs
        )

    return mock.patch.object(attention, "_attn", attend)


def rotate_table(model):
    """Replaces the function of GPT-J's code, or CodeGen's, that rotates by one that rotates nothing."""
    source = sys.modules[type(attention_of(layers_of(model)[LAYER], model.config)).__module__]
    return mock.patch.object(source, "apply_rotary_pos_emb", lambda x, sin, cos: x)


def scale_scores(model):
    """Makes an attention compute with another scale than its entry says."""
    return mock.patch.object(attention_of(layers_of(model)[LAYER], model.config), "softmax_scale", 0.4)


def scale_experts(model):
    """Multiplies the output of a layer's experts."""
    experts = experts_of(layers_of(model)[LAYER])
    forward = experts.forward
    return mock.patch.object(experts, "forward", lambda *args: 1.2 * forward(*args))


def leave_out_the_shared_expert(model):
    """Makes the shared expert of a layer return zeros, behind its hooks."""
    shared = shared_expert_of(layers_of(model)[LAYER])
    forward = shared.forward
    return mock.patch.object(shared, "forward", lambda x: 0 * forward(x))


def scale_the_ffn_norm(model):
    """Multiplies the output of the norm behind a layer's FFN."""
    layer = layers_of(model)[LAYER]
    norms = (getattr(place, "post_mlp_layernorm", None) for place in (layer, ffn_of(layer)))
    norm = next((norm for norm in norms if norm is not None), None) or layer.post_feedforward_layernorm
    forward = norm.forward
    return mock.patch.object(norm, "forward", lambda x: 1.2 * forward(x))


def scale_the_ffn(model):
    """Multiplies the input of the norm behind a layer's FFN."""
    ffn = ffn_of(layers_of(model)[LAYER])
    forward = ffn.forward
    return mock.patch.object(ffn, "forward", lambda x: 1.2 * forward(x))


ATTENTION = {
    rotate_nothing: "heads that the norms, clip and rotation",
    hide_the_last_key: "computes other attention than softmax",
}
OWN_ATTENTION = {hide_the_last_key_itself: ATTENTION[hide_the_last_key]}
GATED = {
    rotate_nothing: "heads that the norms, clip, rotation and output_gate",
    hide_the_last_key: ATTENTION[hide_the_last_key],
}
EXPERTS = {scale_experts: "does not compute the sum over experts"}
SHARED = {leave_out_the_shared_expert: "does not return the sum of its experts and its shared expert"}
NORM = {scale_the_ffn_norm: "does not compute an RMSNorm", scale_the_ffn: "does not return the "}
SHARED_IN_LAYER = {leave_out_the_shared_expert: "shared_mlp does not return the output of"}
WITH_SINKS = {forget_sinks: "computes other attention than softmax", rotate_nothing: ATTENTION[rotate_nothing]}
ERRORS = {
    "solar_open": ATTENTION | EXPERTS | SHARED,
    "hy_v3": ATTENTION | EXPERTS | SHARED,
    "mellum": ATTENTION | EXPERTS,
    "laguna": GATED | EXPERTS | SHARED,
    "laguna-half-dense": GATED | EXPERTS | SHARED,
    "kolibri1": ATTENTION | EXPERTS | SHARED | NORM,
    "flint": WITH_SINKS | ATTENTION | EXPERTS | SHARED,
    "aria_text": ATTENTION | EXPERTS | SHARED,
    "axk1": {hide_the_last_key: ATTENTION[hide_the_last_key]} | EXPERTS | SHARED | NORM,
    "dbrx": ATTENTION | EXPERTS,
    "glm4_moe": ATTENTION | EXPERTS | SHARED,
    "granite_swa": WITH_SINKS,
    "granitemoe": ATTENTION | EXPERTS,
    "granitemoeshared": ATTENTION | EXPERTS | SHARED_IN_LAYER,
    "granitemoe_swa": WITH_SINKS | EXPERTS | SHARED_IN_LAYER,
    "dots1": ATTENTION | EXPERTS | SHARED,
    "exaone_moe": ATTENTION | EXPERTS | SHARED,
    "mimo_v2_flash": ATTENTION | WITH_SINKS | EXPERTS,
    "minimax": ATTENTION | EXPERTS,
    "olmo_hybrid": {hide_the_last_key: ATTENTION[hide_the_last_key]} | NORM,
    "olmo_hybrid-rotated": ATTENTION,
    "minimax_m2": ATTENTION | EXPERTS,
    "hunyuan_v1_moe": ATTENTION | EXPERTS | SHARED,
    "cohere2_moe": ATTENTION | EXPERTS | SHARED,
    "flex_olmo": ATTENTION | EXPERTS | NORM,
    "afmoe": GATED | EXPERTS | SHARED | NORM,
    "internlm3": ATTENTION,
    "hyperclovax": ATTENTION,
    "jais2": ATTENTION,
    "nanochat": ATTENTION,
    "vaultgemma": ATTENTION,
    "persimmon": ATTENTION,
    "biogpt": {hide_the_last_key: ATTENTION[hide_the_last_key]},
    "gpt_neo": OWN_ATTENTION,
    "gptj": OWN_ATTENTION | {rotate_table: ATTENTION[hide_the_last_key]},
    "codegen": OWN_ATTENTION | {rotate_table: ATTENTION[hide_the_last_key]},
    "gpt_neox_japanese": OWN_ATTENTION | {rotate_nothing: ATTENTION[hide_the_last_key]},
    "openai-gpt": OWN_ATTENTION,
    "mpt": {scale_scores: ATTENTION[hide_the_last_key]},
    "gpt_bigcode": {hide_the_last_key: ATTENTION[hide_the_last_key]},
    "llama4_text": ATTENTION | EXPERTS | SHARED,
    "iquestcoder": ATTENTION,
    "emu3_text_model": ATTENTION,
    "cohere_compass_text": {hide_the_last_key: ATTENTION[hide_the_last_key]},
    "cohere_compass_text-rotated": ATTENTION,
    "ctrl": {hide_the_last_key: ATTENTION[hide_the_last_key]},
    "modernbert-decoder": ATTENTION,
    "phi4_multimodal": ATTENTION,
    "gemma4_unified_text": {hide_the_last_key: ATTENTION[hide_the_last_key]},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name, plant, message", [(name, plant, errors[plant]) for name, errors in ERRORS.items() for plant in errors]
)
def test_a_planted_error_is_refused(name, plant, message, dtype):
    model = tiny_model(name, dtype)
    with plant(model):
        departures = verify(Decoder(model)).departures
        assert any(message in departure.sentence for departure in departures), departures
        with pytest.raises(pml.UnsupportedModel, match=message):
            pml.importance(model, **tiny_batch())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"output_gate": False}, "computes other attention than softmax"),
        ({"output_gate": "o_proj"}, "o_proj gives 32 gates"),
        ({"rotates": None}, "heads that the norms, clip, rotation and output_gate"),
        ({"shared_expert": None}, "does not return the output of"),
    ],
)
def test_another_entry_of_afmoe_is_refused(monkeypatch, changes, message):
    model = tiny_model("afmoe", num_attention_heads=3, num_key_value_heads=1)
    monkeypatch.setitem(FAMILIES, "afmoe", replace(FAMILIES["afmoe"], **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"qkv_blocks": None}, "computes other attention than softmax"),
        ({"qkv_blocks": 2}, "computes other attention than softmax"),
        (
            {"qkv_blocks": 3},
            "the 144 outputs of qkv_proj are no 3 blocks of the queries, values and keys of 8 heads of 6",
        ),
        ({"rotation": None, "rotation_table": None}, "computes other attention than softmax"),
    ],
)
def test_another_entry_of_codegen_is_refused(monkeypatch, changes, message):
    monkeypatch.setitem(FAMILIES, "codegen", replace(FAMILIES["codegen"], **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(tiny_model("codegen"), **tiny_batch())


@pytest.mark.parametrize("fields", [dict(qkv_blocks=4), dict(qkv="qkv", qkv_by_head=True, qkv_blocks=4)])
def test_blocks_of_no_projection_or_by_head_are_refused(fields):
    with pytest.raises(ValueError, match="qkv_blocks needs qkv, qkv_by_head=False"):
        pml.Family(**fields)
