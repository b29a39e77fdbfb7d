"""Gates on the attention's output, and layers of linear attention among those of attention.

They are those of Qwen3.5, Qwen3-Next, MiniMax and OLMo Hybrid.
tests/models/test_further_families.py compares their importance with brute force.
"""

import copy
import inspect
import sys
import textwrap
import types
from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.methods.mwork import ANYWHERE, Setting
from pymultiling.models.decoder import AttentionLayer, Decoder
from pymultiling.models.families import FAMILIES
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import rows_of
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

NAMES = ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next")
ATTENTION_LAYERS = {
    "qwen3_5_text": [1],
    "qwen3_5_moe_text": [0, 2],
    "qwen3_next": [0, 2],
    "minimax": [1],
    "olmo_hybrid": [1],
}
ATTENTION_SITES = ("q", "k", "v", "o")


def set_in_linear_layer(model, site: str) -> pml.NeuronSet:
    """Returns a set with a neuron of an attention site in a layer of linear attention."""
    decoder = Decoder(model)
    layer = next(number for number in range(len(decoder.layers)) if number not in decoder.attention_layers)
    mask = torch.zeros(len(decoder.layers), decoder.widths()[site], dtype=torch.bool)
    mask[layer, 3] = True
    return pml.NeuronSet({site: mask})


def change_forward(attention, old: str, new: str) -> None:
    """Replaces the forward of an attention by the one of its class with other text in its place."""
    source = textwrap.dedent(inspect.getsource(type(attention).forward))
    assert old in source
    namespace = dict(vars(sys.modules[type(attention).__module__]))
    exec(compile(source.replace(old, new), "<changed>", "exec"), namespace)
    attention.forward = types.MethodType(namespace["forward"], attention)


@pytest.mark.parametrize("name", NAMES)
def test_layers_and_rows_are_found(name):
    model = tiny_model(name)
    decoder = Decoder(model)
    assert list(decoder.attention_layers) == decoder.layers_of("o") == ATTENTION_LAYERS[name]
    assert decoder.layers_of("ffn") == list(range(model.config.num_hidden_layers))
    for number, layer in enumerate(decoder.layers):
        if number not in ATTENTION_LAYERS[name]:
            assert not isinstance(layer, AttentionLayer) and layer.width("q") == 0 < layer.width("ffn")
            continue
        module = model.model.layers[number].self_attn.q_proj
        rows, head = rows_of(model.config, "q"), model.config.head_dim
        assert layer.q.module is layer.output_gate.module is module and torch.equal(layer.q.row_indices(), rows)
        assert torch.equal(layer.output_gate.row_indices(), rows + head)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_importance_is_brute_force_to_float64(padding):
    truth = brute_force_importance("qwen3_5_text", padding)
    result = importance_in_float64(tiny_model("qwen3_5_text", torch.float64), **tiny_batch(padding=padding))
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10


@pytest.mark.parametrize("name", ATTENTION_LAYERS)
def test_the_check_of_doctor_agrees(name):
    """It reads probabilities off the attention's output, with open gates."""
    assert max(spot_check(tiny_model(name)).values()) < 1e-4


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("attn_output * torch.sigmoid(gate)", "attn_output", r"v sigmoid\(gate\) \(`output_gate`\) with scale"),
        ("torch.sigmoid(gate)", "torch.sigmoid(1.01 * gate)", r"sigmoid\(gate\) \(`output_gate`\)"),
        ("torch.sigmoid(gate)", "torch.sigmoid(gate).roll(1, -1)", r"sigmoid\(gate\) \(`output_gate`\)"),
        ("query_states, gate =", "gate, query_states =", "q heads that the norms, clip, rotation and output_gate of"),
    ],
    ids=["no gate", "other gate", "gate of a neighbour", "the other half"],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_an_attention_with_another_gate_is_refused(name, old, new, sentence):
    model = tiny_model(name)
    change_forward(model.model.layers[ATTENTION_LAYERS[name][-1]].self_attn, old, new)
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch(), sites=("q", "k"))
    assert {departure.check for departure in verify(Decoder(model)).departures} == {"scores"}


@pytest.mark.parametrize(
    "name, changes, sentence",
    [
        ("qwen3_5_text", dict(output_gate=False), "64 values that o_proj takes, in heads of 16.*output_gate"),
        ("qwen3", dict(output_gate=True), "layer 0: q_proj gives 64 values, and with output_gate it gives a query and"),
        ("qwen3_5_text", dict(linear_attention=None), "layer 0: looked for self_attn in .* which has linear_attn"),
        ("qwen3_5_text", dict(linear_attention="mlp"), "no layer of Qwen3_5ForCausalLM has self_attn"),
        ("qwen3_5_text", dict(norm_offset=0.0), "does not pass on the q heads"),
        ("minimax", dict(linear_attention=None), "layer 0: looked for o_proj in MiniMaxLightningAttention"),
        ("minimax", dict(linear_attention="self_attn"), "no layer of MiniMaxForCausalLM has self_attn"),
        ("olmo_hybrid", dict(linear_ffn_norm=True), "layer 0: looked for post_feedforward_layernorm in OlmoHybridLin"),
    ],
)
def test_a_wrong_entry_is_refused(monkeypatch, name, changes, sentence):
    monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], **changes))
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(tiny_model(name), **tiny_batch())


@pytest.mark.parametrize("context", [80, 100_000])
def test_copies_beyond_the_first_context_are_accepted(context):
    """They are copies of a layer with attention alone."""
    rotation = dict(rope_type="yarn", rope_theta=1e4, factor=2.0, original_max_position_embeddings=context)
    model = tiny_model("qwen3_next", rope_parameters=dict(rotation, partial_rotary_factor=0.5))
    result = verify(Decoder(model))
    assert not result.departures and not result.notes


def test_a_norm_that_linear_layers_lack_needs_such_layers():
    with pytest.raises(ValueError, match="linear_ffn_norm=False needs linear_attention and ffn_norm"):
        pml.Family(ffn_norm="norm", linear_ffn_norm=False)


def test_a_gate_needs_its_own_query_projection():
    with pytest.raises(ValueError, match="output_gate needs qkv=None and clip=None"):
        pml.Family(qkv="qkv", output_gate=True)


@pytest.mark.parametrize("site", ATTENTION_SITES)
def test_attention_neurons_of_a_linear_layer_are_refused(tmp_path, site):
    model, sentence = (
        tiny_model("qwen3_next"),
        f"{site} neurons in layer 1, which has linear attention and so no such neurons",
    )
    neurons = set_in_linear_layer(model, site)
    with pytest.raises(ValueError, match=f"the set has {sentence}.* layers that have {site}, 0, 2"):
        pml.deactivate(model, neurons).__enter__()
    with pytest.raises(ValueError, match=f"set 1 has {sentence}"):
        pml.deactivate(
            model, [None, neurons], mean=pml.mean_activations(model, tiny_tokenizer(), texts("fr"))
        ).__enter__()
    with pytest.raises(ValueError, match=sentence):
        pml.export(model, None, neurons, tmp_path / "out")
    with pytest.raises(ValueError, match=sentence):
        pml.train_only(model, neurons)
    with pytest.raises(ValueError, match=sentence):
        pml.ablation_matrix(model, tiny_tokenizer(), {"fr": neurons}, {"fr": texts("fr")}, progress=False)


@pytest.mark.parametrize("name", ATTENTION_LAYERS)
def test_linear_layers_are_zero_in_results_and_empty_in_sets(name):
    model, tokenizer = tiny_model(name), tiny_tokenizer()
    corpora = {"fr": texts("fr"), "de": texts("de")}
    linear = [n for n in range(model.config.num_hidden_layers) if n not in ATTENTION_LAYERS[name]]
    means = pml.mean_activations(model, tokenizer, corpora["fr"], progress=False)
    for select in (pml.TopK(1.0, 1.0), pml.TopK(0.2, 0.2, share=0.5), pml.Threshold(0.0)):
        detection = pml.detect(model, tokenizer, corpora, select=select, progress=False)
        for site in pml.SITES:
            values, counts = detection.statistics["fr"].sum[site], detection.neurons["fr"].count("layer")[site]
            has_neurons = [site == "ffn" or layer not in linear for layer in range(len(counts))]
            assert (values > 0).any(1).tolist() == (means[site] != 0).any(1).tolist() == has_neurons
            assert [count > 0 for count in counts] == has_neurons
    matrix = pml.ablation_matrix(model, tokenizer, detection.neurons, corpora, progress=False)
    assert matrix.notna().all().all()
    counts = pml.activations(model, tokenizer, corpora, progress=False)
    assert counts["fr"].proportion.shape[0] == model.config.num_hidden_layers


@torch.no_grad()
@pytest.mark.parametrize("name", ATTENTION_LAYERS)
@pytest.mark.parametrize("site", pml.SITES)
def test_rows_are_under_their_own_sets(name, site):
    model, batch = tiny_model(name), tiny_batch((9, 9, 9))
    a, b = random_neurons(model, seed=1, sites=(site,)), random_neurons(model, seed=2, sites=(site,))
    truths = [logits(model if x is None else with_zeroed_neurons(model, x), batch).view(3, 9, -1) for x in (b, None, a)]
    with pml.deactivate(model, [a, b, None], rows=[1, 2, 0]):
        result = logits(model, batch).view(3, 9, -1)
    for row, truth in enumerate(truths):
        assert difference(result[row], truth[row]) < TOLERANCE[torch.float32]
    assert difference(result[0], truths[1][0]) > 1e-3 < difference(result[2], truths[1][2])


@torch.no_grad()
def test_a_query_neuron_that_is_off_leaves_its_gate():
    model, batch = tiny_model("qwen3_5_text"), tiny_batch((9,))
    neurons, seen = random_neurons(model, sites=("q",)), []
    handle = model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _, args, output: seen.append(output))
    logits(model, batch)
    handle.remove()
    with pml.deactivate(model, neurons):
        model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda _, args, output: seen.append(output))
        logits(model, batch)
    before, after = (output.unflatten(-1, (4, 2, 16)) for output in seen)
    assert torch.equal(after[..., 1, :], before[..., 1, :])
    off = neurons.sites["q"][1].view(4, 16)
    assert off.any() and torch.equal(after[..., 0, :], before[..., 0, :].masked_fill(off, 0))


def test_random_neurons_anywhere_are_those_of_layers_that_have_them():
    model = tiny_model("qwen3_next")
    own = random_neurons(model)
    sets = Setting(("attention",), ANYWHERE).sets({"attention": own}, range(5), Decoder(model).layer_widths())
    for drawn in sets:
        Decoder(model).check_set(drawn)
        assert drawn.count() == own.count()


def test_trained_neurons_are_those_of_the_query():
    model = tiny_model("qwen3_5_text")
    before, neurons = copy.deepcopy(model.state_dict()), random_neurons(model, sites=("q",))
    tuning = pml.train_only(model, neurons)
    loss = model(**tiny_batch((9,)), labels=tiny_batch((9,))["input_ids"]).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    tuning.merge()
    changed = {
        key: value != before[key] for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert list(changed) == ["model.layers.1.self_attn.q_proj.weight"]
    rows = rows_of(model.config, "q")[neurons.sites["q"][1]]
    assert changed["model.layers.1.self_attn.q_proj.weight"].any(1).nonzero().flatten().tolist() == rows.tolist()


def test_doctor_says_which_layers_have_attention(tmp_path, capsys):
    assert main(["doctor", "--model", str(save_model(tmp_path, tiny_model("qwen3_next")))]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Layers 0, 2 have attention. The others have linear attention in its place: they have neurons of ffn only"
        in printed
    )
    assert "q model.layers.0.self_attn.q_proj, outputs 0 to 15 of each block of 32" in printed
    assert "output gate model.layers.0.self_attn.q_proj, outputs 16 to 31 of each block of 32" in printed
