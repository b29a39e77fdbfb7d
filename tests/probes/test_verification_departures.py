"""The verification names what a model computes differently, and accepts every family as it is."""

import copy
import types

import pytest
import torch
from torch import nn

from pymultiling.models.decoder import Decoder
from pymultiling.probes.verification.verify import verify
from tests.probes.test_masking import footprint
from tests.support import departures
from tests.support.tiny_models import MODELS, tiny_model

LAYER = 1  # departures are planted in the last layer


def failed(model) -> dict[str, str]:
    """Returns {check: the sentence of its first departure}."""
    sentences: dict[str, str] = {}
    for departure in verify(Decoder(model)).departures:
        sentences.setdefault(departure.check, departure.sentence)
    return sentences


def implementations(name: str) -> list[str]:
    """Returns the attention implementations that a model of MODELS has."""
    if name.startswith("gemma2"):
        return ["eager"]  # transformers' sdpa has no soft caps
    return ["sdpa"] if "alibi" in name or name.startswith(("bloom", "falcon", "xglm")) else ["eager", "sdpa"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_as_it_is_passes_every_check_and_stays_bit_for_bit_the_same(name, dtype):
    if name == "xglm" and dtype == torch.float64:
        pytest.skip("transformers' XGLM has no float64: its forward fails")
    model = tiny_model(name, dtype)
    for implementation in implementations(name):
        if implementation == "eager":
            model.set_attn_implementation("eager")
        buffers = {key: value.clone() for key, value in model.named_buffers()}
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        hooks, random_state = footprint(model), torch.get_rng_state()
        result = verify(Decoder(model))
        assert not result.departures and not result.notes
        is_expert = Decoder(model).layers[0].experts is not None
        assert set(result.differences) == {"ffn", *"qkvo", "values", "scores", "layers"} | (
            set() if is_expert else {"product"}
        )
        assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
        assert footprint(model) == hooks and torch.equal(torch.get_rng_state(), random_state)


PROJECTIONS = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "ffn",
    "up_proj": "ffn",
    "down_proj": "ffn",
}


@pytest.mark.parametrize("kind", [departures.WithAdapter, departures.FakeQuantised])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_linear_of_another_class_fails_at_its_site_alone(projection, kind):
    model = tiny_model("llama")
    parent = model.model.layers[LAYER].get_submodule("mlp" if PROJECTIONS[projection] == "ffn" else "self_attn")
    departures.replace_linear(parent, projection, kind)
    sentences = failed(model)
    assert set(sentences) == {PROJECTIONS[projection]}
    sentence = sentences[PROJECTIONS[projection]]
    assert (
        f"layers.1.{'mlp' if parent is model.model.layers[LAYER].mlp else 'self_attn'}.{projection} does not"
        in sentence
    )
    assert "off by" in sentence and "merge" in sentence


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_adapter_is_seen_in_16_bits_too(dtype):
    model = tiny_model("qwen3")
    departures.replace_linear(model.model.layers[LAYER].mlp, "down_proj", departures.WithAdapter)
    assert set(failed(model.to(dtype))) == {"ffn"}


def test_a_part_of_a_fused_projection_fails_at_its_site_alone():
    model = tiny_model("phi3")
    attention = model.model.layers[LAYER].self_attn
    rows = Decoder(model).layers[LAYER].k.row_indices()
    attention.qkv_proj.register_forward_hook(lambda _, args, output: output.index_fill(-1, rows[:1], 0.0))
    assert set(failed(model)) == {"k"}


def test_a_forward_of_its_own_that_adds_something_is_named():
    model = tiny_model("llama")
    projection = model.model.layers[LAYER].self_attn.k_proj
    forward = projection.forward
    projection.forward = lambda x: forward(x) + 0.01
    assert "k_proj does not return its weight times its input plus its bias" in failed(model)["k"]


def test_a_forward_of_its_own_that_only_wraps_passes():
    """As accelerate's hooks do."""
    model = tiny_model("llama")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = lambda x, forward=module.forward: forward(x)
    assert failed(model) == {}


def test_a_projection_whose_weight_is_read_without_a_call_is_named():
    model = tiny_model("llama")
    departures.read_weights_without_calling(model.model.layers[LAYER].self_attn)
    sentences = failed(model)
    assert set(sentences) == {"q", "scores"}
    assert "does not call model.layers.1.self_attn.q_proj" in sentences["q"]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Identity()], ids=str)
def test_another_activation_fails_where_the_product_counts_alone(activation):
    model = tiny_model("llama")
    model.model.layers[LAYER].mlp.act_fn = activation
    sentences = failed(model)
    assert (
        set(sentences) == {"product"} and "layers.1.mlp's down projection is not silu(gate) up" in sentences["product"]
    )


def test_the_other_form_of_gelu_is_told_from_the_right_one():
    model = tiny_model("gemma")
    model.model.layers[LAYER].mlp.act_fn = nn.GELU()
    assert set(failed(model)) == {"product"}


def test_an_ffn_that_clamps_its_product_fails_where_the_product_counts_alone():
    model = tiny_model("llama")
    mlp = model.model.layers[LAYER].mlp
    mlp.forward = lambda x: mlp.down_proj((mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)).clamp(-0.5, 0.5))
    assert set(failed(model)) == {"product"}


def test_an_ffn_that_clamps_its_output_is_named():
    model = tiny_model("llama")
    mlp = model.model.layers[LAYER].mlp
    mlp.forward = types.MethodType(lambda self, x: type(self).forward(self, x).clamp(-0.5, 0.5), mlp)
    assert "layers.1.mlp does not return the output of model.layers.1.mlp.down_proj" in failed(model)["ffn"]


@pytest.mark.parametrize("hook", [departures.double, departures.double_in_place])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_hook_that_doubles_the_output_of_a_projection_is_named(projection, hook):
    model = tiny_model("llama")
    site = PROJECTIONS[projection]
    parent = model.model.layers[LAYER].get_submodule("mlp" if site == "ffn" else "self_attn")
    getattr(parent, projection).register_forward_hook(hook)
    sentences = failed(model)
    assert set(sentences) == {site} and projection in sentences[site] and "(off by 1 of its size)" in sentences[site]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "falcon", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("sublayer", ["attention", "ffn"])
def test_a_hook_that_doubles_the_output_of_a_sublayer_is_named(name, sublayer):
    model = tiny_model(name)
    getattr(Decoder(model).layers[LAYER], sublayer).register_forward_hook(departures.double)
    check = "o" if sublayer == "attention" else "ffn"
    assert set(failed(model)) == {check}


@pytest.mark.parametrize("change", ["none", "scale", "ahead", "sink", "positions", "bias", "window"])
def test_an_attention_that_computes_something_else_fails_at_the_scores_alone(monkeypatch, change):
    model = tiny_model("llama")
    departures.replace_eager_attention(monkeypatch, model, change)
    sentences = failed(model)
    assert set(sentences) == (set() if change == "none" else {"scores"})
    if change != "none":
        assert "self_attn computes other attention than softmax(scores) v" in sentences["scores"]


@pytest.mark.parametrize("change", ["scale", "ahead", "sink", "window"])
def test_an_attention_that_computes_something_else_is_seen_in_bfloat16(monkeypatch, change):
    model = tiny_model("llama", torch.bfloat16)
    departures.replace_eager_attention(monkeypatch, model, change)
    assert set(failed(model)) == {"scores"}


def test_a_soft_cap_that_is_left_out_is_named(monkeypatch):
    model = tiny_model("gemma2")
    departures.replace_eager_attention(monkeypatch, model, "no cap")
    assert "soft cap 2.0" in failed(model)["scores"]


def test_another_window_than_that_of_the_mask_is_named():
    model = tiny_model("qwen2-sliding")
    model.model.layers[LAYER].self_attn.sliding_window = 9
    sentences = failed(model)
    assert set(sentences) == {"scores"} and "window 9" in sentences["scores"]


def test_values_that_are_changed_on_their_way_fail_at_the_scores(monkeypatch):
    model = tiny_model("llama")
    departures.replace_eager_attention(monkeypatch, model, "values")
    assert set(failed(model)) == {"scores", "values"}


def test_a_norm_of_queries_that_is_another_is_named():
    model = tiny_model("qwen3")
    norm = model.model.layers[LAYER].self_attn.q_norm
    norm.forward = lambda x: nn.functional.layer_norm(x, x.shape[-1:]) * norm.weight
    sentences = failed(model)
    assert set(sentences) == {"scores"} and "does not pass on the q heads" in sentences["scores"]


def test_a_norm_after_a_sublayer_that_is_another_is_named():
    model = tiny_model("olmo2")
    for name, checks in (("post_attention_layernorm", {"v", "o"}), ("post_feedforward_layernorm", {"ffn"})):
        changed = copy.deepcopy(model)
        norm = getattr(changed.model.layers[LAYER], name)
        norm.register_forward_hook(departures.double)
        sentences = failed(changed)
        assert set(sentences) == checks
        assert all(f"{name} does not compute an RMSNorm" in sentence for sentence in sentences.values())


def test_a_rotation_that_is_another_is_named(monkeypatch):
    model = tiny_model("llama")
    module = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
    monkeypatch.setattr(
        module, "apply_rotary_pos_emb", lambda q, k, cos, sin, **_: (q * cos[:, None], k * cos[:, None])
    )
    sentences = failed(model)
    assert set(sentences) == {"scores"} and "does not pass on" in sentences["scores"]


@pytest.mark.parametrize("name", ["bloom", "falcon-alibi", "xglm"])
def test_an_attention_without_an_interface_that_computes_something_else_is_named(name):
    """The input of o_proj is changed by a hook before the check's, as another attention would change it."""
    model = tiny_model(name)
    attention = Decoder(model).layers[LAYER].attention
    output = Decoder(model).layers[LAYER].o
    forward = output.forward
    attention.register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
    output.forward = lambda x: forward(0.9 * x)
    assert set(failed(model)) == {"o"}


def test_experts_of_another_activation_are_named():
    model = tiny_model("mixtral")
    model.model.layers[LAYER].mlp.experts.register_forward_hook(departures.double)
    assert "layers.1.mlp.experts does not compute the sum over experts" in failed(model)["ffn"]


def test_a_layer_that_is_left_out_is_named():
    model = tiny_model("llama")
    model.model.layers[0].forward = lambda hidden_states, *args, **kwargs: hidden_states
    sentences = failed(model)
    assert "does not call model.layers.0.self_attn.q_proj" in sentences["q"]


def test_hidden_states_that_are_changed_between_layers_are_named():
    model = tiny_model("llama")
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0] + 1, *args[1:]))
    sentences = failed(model)
    assert set(sentences) == {"layers"} and "layers.1 does not get the output" in sentences["layers"]


def test_a_final_norm_that_is_not_applied_is_named():
    model = tiny_model("llama")
    model.model.register_forward_hook(
        lambda module, args, output: type(output)(last_hidden_state=2 * output.last_hidden_state)
    )
    assert "the last hidden state is not what norm make" in failed(model)["layers"]
