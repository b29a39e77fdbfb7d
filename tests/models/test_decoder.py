"""Decoder: where it finds the neurons of each family, their numbers, and what it says when they are not there."""

import pytest
import torch
from tiny import FAMILIES, MODELS, ffn_modules, sizes, tiny_model
from torch import nn

import pymultiling as pml
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.families import FAMILIES as TABLE


@pytest.mark.parametrize("name", MODELS)
def test_widths_are_those_of_the_configuration(name):
    model = tiny_model(name)
    decoder, expected = Decoder(model), sizes(model.config)
    assert decoder.widths() == expected
    assert len(decoder.layers) == model.config.num_hidden_layers
    for layer in decoder.layers:
        assert {site: layer.width(site) for site in pml.SITES} == expected
        assert layer.heads == model.config.num_attention_heads
        assert layer.kv_heads == model.config.num_key_value_heads
        assert layer.heads * layer.head_size == expected["q"]


def test_sizes_are_read_off_the_weights_not_off_hidden_size():
    decoder = Decoder(tiny_model("llama", head_dim=14))  # 4 heads of 14 at a hidden size of 32
    assert decoder.widths() == dict(ffn=37, q=56, k=28, v=28, o=56)
    assert (decoder.layers[0].head_size, decoder.layers[0].heads, decoder.layers[0].kv_heads) == (14, 4, 2)


def test_every_family_of_the_table_is_tested():
    assert {MODELS[name][0].model_type for name in FAMILIES} == set(TABLE)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "phi3" not in name])
def test_separate_projections_are_whole_modules(name):
    model = tiny_model(name)
    for layer, own in zip(Decoder(model).layers, model.model.layers):
        for site in ("q", "k", "v"):
            projection, linear = getattr(layer, site), getattr(own.self_attn, f"{site}_proj")
            assert projection.module is linear and (projection.start, projection.stop) == (0, linear.out_features)
        gate, up, down = ffn_modules(own.mlp)
        assert layer.gate.module is gate and (layer.up is None if up is gate else layer.up.module is up)
        assert layer.down is down and layer.o is own.self_attn.o_proj


@pytest.mark.parametrize("name", ["phi3", "phi3-partial-rotary"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fused_projections_are_sliced_as_the_model_slices_them(name, kv_heads):
    model = tiny_model(name, num_key_value_heads=kv_heads)
    layer, own = Decoder(model).layers[0], model.model.layers[0]
    qkv, gate_up = own.self_attn.qkv_proj.weight, own.mlp.gate_up_proj.weight
    assert layer.q.module is layer.k.module is layer.v.module is own.self_attn.qkv_proj
    assert layer.gate.module is layer.up.module is own.mlp.gate_up_proj
    q, k, v = qkv.split([32, 8 * kv_heads, 8 * kv_heads])
    gate, up = gate_up.chunk(2)
    for projection, part in ((layer.q, q), (layer.k, k), (layer.v, v), (layer.gate, gate), (layer.up, up)):
        assert projection.width == part.shape[0]
        assert torch.equal(projection.of(projection.module.weight.T), part.T)


@pytest.mark.parametrize(
    "name, q_norm, post_norm",
    [("llama", 0, 0), ("qwen3", 1, 0), ("gemma", 0, 0), ("gemma2", 0, 1), ("gemma3_text", 1, 1)],
)
def test_norms_are_found_where_the_family_has_them(name, q_norm, post_norm):
    model = tiny_model(name)
    layer, own = Decoder(model).layers[1], model.model.layers[1]
    assert (layer.q_norm, layer.k_norm) == ((own.self_attn.q_norm, own.self_attn.k_norm) if q_norm else (None, None))
    norms = (own.post_attention_layernorm, own.post_feedforward_layernorm) if post_norm else (None, None)
    assert (layer.attention_norm, layer.ffn_norm) == norms


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gemma3_text"])
def test_a_norm_multiplies_by_its_multiplier(name):
    model = tiny_model(name, torch.float64)
    decoder = Decoder(model)
    norm = decoder.layers[0].q_norm or decoder.layers[0].ffn_norm
    x = torch.ones(norm.weight.shape[0], dtype=torch.float64)  # its own root mean square is 1
    assert torch.allclose(norm(x), decoder.multiplier(norm), atol=1e-5)


def test_a_model_without_a_head_is_a_decoder_too():
    model = tiny_model("llama").model
    assert Decoder(model).base is model
    found = pml.importance(model, torch.tensor([[5, 6, 7]]))
    whole = pml.importance(tiny_model("llama"), torch.tensor([[5, 6, 7]]))
    assert all(torch.equal(found[site], whole[site]) for site in pml.SITES)


def test_model_device_is_where_the_embeddings_are():
    assert model_device(tiny_model("llama")) == torch.device("cpu")


def test_a_missing_projection_is_named_with_what_is_there():
    model = tiny_model("llama")
    del model.model.layers[1].mlp.down_proj
    with pytest.raises(
        pml.UnsupportedModel, match="layer 1: looked for down_proj in LlamaMLP, which has gate_proj, up_proj"
    ):
        Decoder(model)


def test_missing_layers_are_named():
    model = tiny_model("llama")
    del model.model.layers
    with pytest.raises(pml.UnsupportedModel, match="looked for layers in LlamaModel"):
        Decoder(model)


def test_an_unknown_family_is_told_the_known_ones():
    model = tiny_model("llama")
    model.config.model_type = "mamba"
    with pytest.raises(pml.UnsupportedModel, match="model_type 'mamba'.*looked for one of llama, .*phi3.*families.py"):
        Decoder(model)
    with pytest.raises(pml.UnsupportedModel, match="Linear"):
        Decoder(nn.Linear(2, 2))


def test_quantised_weights_are_refused():
    model = tiny_model("llama")
    linear = model.model.layers[0].self_attn.o_proj
    linear.weight = nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(
        pml.UnsupportedModel,
        match="o_proj of layer 0 is no plain torch.nn.Linear.*without quantisation, and merge its adapters",
    ):
        Decoder(model)


def test_layers_of_different_width_are_refused():
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = nn.Linear(32, 11), nn.Linear(32, 11), nn.Linear(11, 32)
    with pytest.raises(pml.UnsupportedModel, match="width of ffn"):
        Decoder(model)


def test_attention_in_both_directions_is_refused():
    with pytest.raises(pml.UnsupportedModel, match="layer 0 is not causal"):
        Decoder(tiny_model("gemma3_text", use_bidirectional_attention=True))


def test_an_activation_that_the_fused_ffn_does_not_know_is_named():
    with pytest.raises(pml.UnsupportedModel, match="'tanh'.*silu"):
        pml.importance(tiny_model("llama", hidden_act="tanh"), torch.tensor([[5, 6, 7]]), score="released")
