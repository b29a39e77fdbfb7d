"""Decoder: the modules that it finds in each family, their widths, and its errors for models that it cannot use."""

import pytest
import torch
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import pymultiling as pml
from pymultiling.models.decoder import Decoder, model_device
from pymultiling.models.families import FAMILIES
from tests.models.test_multimodal_models import WITHOUT_A_HEAD, multimodal_model
from tests.support.anatomy import (
    attention_of,
    experts_of,
    ffn_modules,
    key_heads,
    layers_of,
    module_name,
    output_of,
    rows_of,
    sizes,
    weight_of,
)
from tests.support.tiny_models import (
    ENCODERS,
    FURTHER_MODELS,
    MODELS,
    PAIRS,
    configuration,
    is_missing,
    tiny_model,
    unknown_model,
)


@pytest.mark.parametrize("name", MODELS)
def test_widths_are_those_of_the_configuration(name):
    model = tiny_model(name)
    decoder, expected = Decoder(model), sizes(model.config)
    assert decoder.widths() == expected
    assert len(decoder.layers) == model.config.num_hidden_layers
    for layer in decoder.layers:
        assert {site: layer.width(site) for site in pml.SITES} == expected
        assert layer.heads == model.config.num_attention_heads
        assert layer.kv_heads == key_heads(model.config)
        assert layer.heads * layer.head_size == expected["q"]


def test_sizes_are_read_off_the_weights_not_off_hidden_size():
    decoder = Decoder(tiny_model("llama", head_dim=14))  # 4 heads of 14 at a hidden size of 32
    assert decoder.widths() == dict(ffn=37, q=56, k=28, v=28, o=56)
    assert (decoder.layers[0].head_size, decoder.layers[0].heads, decoder.layers[0].kv_heads) == (14, 4, 2)


def test_every_registered_family_is_tested():
    known = {name for name in FAMILIES if name in CONFIG_MAPPING or name.endswith("_text")}
    kinds = (MODELS | FURTHER_MODELS | ENCODERS | PAIRS).values()
    tested = {configuration(kind).model_type for kind, _ in kinds if not is_missing(kind)}
    tested |= {multimodal_model(name).config.get_text_config().model_type for name in WITHOUT_A_HEAD}
    assert tested == known


@pytest.mark.parametrize("name", MODELS)
def test_separate_projections_are_whole_modules(name):
    model = tiny_model(name)
    for layer, module in zip(Decoder(model).layers, layers_of(model)):
        attention = attention_of(module, model.config)
        for site in ("q", "k", "v") if module_name(model.config, "qkv") is None else ():
            projection, linear = getattr(layer, site), getattr(attention, f"{site}_proj")
            assert projection.module is linear and projection.index() == slice(0, linear.out_features)
        assert layer.o is output_of(module, model.config)
        if experts_of(module) is not None:
            assert layer.experts.module is experts_of(module) and layer.gate is layer.up is layer.down is None
            continue
        gate, up, down = ffn_modules(module)
        assert layer.gate.module is gate and (layer.up.module is up if layer.up else up is gate)
        assert layer.down is down and layer.experts is None


FUSED = [name for name, (kind, _) in MODELS.items() if module_name(configuration(kind)(), "qkv")]


@pytest.mark.parametrize("name", FUSED)
def test_fused_projections_select_the_rows_that_the_model_uses(name):
    model = tiny_model(name)
    for layer, module in zip(Decoder(model).layers, layers_of(model)):
        fused = getattr(attention_of(module, model.config), module_name(model.config, "qkv"))
        output = torch.randn(2, 3, weight_of(fused).shape[0])
        for site in ("q", "k", "v"):
            projection, rows = getattr(layer, site), rows_of(model.config, site)
            assert projection.module is fused and projection.width == len(rows)
            assert torch.equal(projection.row_indices(), rows)
            for part in (output[..., rows], output[..., projection.index()]):
                assert torch.equal(projection.select(output), part)


@pytest.mark.parametrize("name", ["phi3", "phi3-partial-rotary"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_fused_projections_are_sliced_as_the_model_slices_them(name, kv_heads):
    model = tiny_model(name, num_key_value_heads=kv_heads)
    layer, module = Decoder(model).layers[0], model.model.layers[0]
    qkv, gate_up = module.self_attn.qkv_proj.weight, module.mlp.gate_up_proj.weight
    assert layer.q.module is layer.k.module is layer.v.module is module.self_attn.qkv_proj
    assert layer.gate.module is layer.up.module is module.mlp.gate_up_proj
    q, k, v = qkv.split([32, 8 * kv_heads, 8 * kv_heads])
    gate, up = gate_up.chunk(2)
    for projection, part in ((layer.q, q), (layer.k, k), (layer.v, v), (layer.gate, gate), (layer.up, up)):
        assert projection.width == part.shape[0]
        assert torch.equal(projection.select(projection.module.weight.T), part.T)


@pytest.mark.parametrize(
    "name, q_norm, post_norm",
    [("llama", 0, 0), ("qwen3", 1, 0), ("gemma", 0, 0), ("gemma2", 0, 1), ("gemma3_text", 1, 1), ("olmo2", 1, 1)],
)
def test_norms_are_found_where_the_family_has_them(name, q_norm, post_norm):
    model = tiny_model(name)
    layer, module = Decoder(model).layers[1], model.model.layers[1]
    assert (layer.q_norm, layer.k_norm) == (
        (module.self_attn.q_norm, module.self_attn.k_norm) if q_norm else (None, None)
    )
    norms = (module.post_attention_layernorm, module.post_feedforward_layernorm) if post_norm else (None, None)
    assert (layer.attention_norm, layer.ffn_norm) == norms


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gemma3_text", "olmo2"])
def test_multiplier_is_what_a_norm_multiplies_by(name):
    model = tiny_model(name, torch.float64)
    decoder = Decoder(model)
    norm = decoder.layers[0].q_norm or decoder.layers[0].ffn_norm
    x = torch.ones(norm.weight.shape[0], dtype=torch.float64)  # the root mean square of x is 1
    assert torch.allclose(norm(x), decoder.multiplier(norm), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_final_modules_turn_the_last_layers_output_into_the_last_hidden_state(name):
    model, tokens, last = tiny_model(name), torch.tensor([[5, 6, 7]]), []
    layers_of(model)[-1].register_forward_hook(lambda _, args, output: last.append(output))
    with torch.no_grad():
        truth = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        hidden = last[0][0] if isinstance(last[0], tuple) else last[0]
        for module in Decoder(model).final_modules:
            hidden = module(hidden)
    assert torch.equal(hidden, truth)


def test_a_missing_final_norm_is_named():
    model = tiny_model("llama")
    del model.model.norm
    with pytest.raises(pml.UnsupportedModel, match="looked for norm in LlamaModel, which has embed_tokens"):
        Decoder(model).final_modules


def test_a_model_without_a_head_has_the_same_importance():
    model = tiny_model("llama").model
    assert Decoder(model).base_model is model
    without_head = pml.importance(model, torch.tensor([[5, 6, 7]]))
    with_head = pml.importance(tiny_model("llama"), torch.tensor([[5, 6, 7]]))
    assert all(torch.equal(without_head[site], with_head[site]) for site in pml.SITES)


def test_model_device_is_where_the_embeddings_are():
    assert model_device(tiny_model("llama")) == torch.device("cpu")


def test_a_missing_projection_is_named_with_the_modules_that_exist():
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


def test_an_unknown_family_is_refused_with_the_list_of_known_ones():
    model = tiny_model("llama")
    model.config.model_type = "mamba"
    with pytest.raises(
        pml.UnsupportedModel,
        match=r"model_type 'mamba'.*looked for one of llama, .*phi3.*register_family\('mamba', .*families.py",
    ):
        Decoder(model)
    with pytest.raises(pml.UnsupportedModel, match=r"BitNetForCausalLM .model_type 'bitnet'"):
        Decoder(unknown_model())
    with pytest.raises(pml.UnsupportedModel, match="Linear"):
        Decoder(nn.Linear(2, 2))


def test_quantised_weights_are_refused():
    model = tiny_model("llama")
    linear = model.model.layers[0].self_attn.o_proj
    linear.weight = nn.Parameter(linear.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(
        pml.UnsupportedModel,
        match=r"o_proj of layer 0 is no plain torch\.nn.Linear.*without quantisation, and merge its adapters",
    ):
        Decoder(model)


@pytest.mark.parametrize("mixed", [dict(mlp_only_layers=[1]), dict(decoder_sparse_step=2)], ids=str)
def test_dense_layers_may_have_another_width_than_the_experts(mixed):
    decoder = Decoder(tiny_model("qwen3_moe", **mixed))
    assert decoder.layer_widths()["ffn"] == ((48, 16) if "mlp_only_layers" in mixed else (16, 48))
    assert decoder.widths()["ffn"] == 48 and decoder.layers_of("ffn") == [0, 1]


def test_queries_that_are_clipped_after_their_norm_are_refused():
    with pytest.raises(pml.UnsupportedModel, match=r"clips queries and keys behind their norms, at 0\.5"):
        Decoder(tiny_model("olmoe", clip_qkv=0.5))


def test_projections_whose_widths_do_not_fit_are_refused():
    model = tiny_model("llama")
    attention = model.model.layers[0].self_attn
    attention.q_proj, attention.k_proj = attention.k_proj, attention.q_proj
    with pytest.raises(
        pml.UnsupportedModel, match="layer 0: the widths of queries, keys and values, 24, 48 and 24, do not fit the 48"
    ):
        Decoder(model)
    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = nn.Linear(32, 11)
    with pytest.raises(pml.UnsupportedModel, match="down_proj takes 37 values, and gate_proj or up_proj gives 11"):
        Decoder(model)


def test_attention_in_both_directions_is_refused():
    with pytest.raises(pml.UnsupportedModel, match="layer 0 is not causal"):
        Decoder(tiny_model("gemma3_text", use_bidirectional_attention=True))


def test_released_importance_needs_no_activation_that_gated_ffn_knows():
    model, outputs = tiny_model("llama", hidden_act="tanh"), []
    tokens = torch.tensor([[5, 6, 7]])
    pml.importance(model, tokens, sites=("ffn",))  # the verification runs the hook too
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda *call: outputs.append(call[2]))
    released = pml.importance(model, tokens, score="released", verify=False)["ffn"][0, 0]
    torch.testing.assert_close(released, outputs[-1][0].abs().sum(0))
