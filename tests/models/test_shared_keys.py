"""Gemma 4 and Gemma 3n: heads of different sizes, keys and values of other layers, normed values, and sparse gates."""

import itertools
import logging
from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.activations import sparse_gate
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.hidden_states import SentenceMeanProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.verification import thresholds
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.support.anatomy import layer_sizes
from tests.support.brute_force import brute_force, float64_throughout
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

NAMES = ("gemma3n_text", "gemma4_text", "gemma4_text-keys-as-values")
SHARING = NAMES[:2]


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_their_own_widths(name):
    model = tiny_model(name)
    layers = [layer_sizes(model.config, layer) for layer in range(model.config.num_hidden_layers)]
    decoder = Decoder(model)
    assert decoder.layer_widths() == {site: tuple(layer[site] for layer in layers) for site in pml.SITES}
    assert not SHARING.count(name) or decoder.layers_of("k") == decoder.layers_of("v") == [0, 1]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_importance_is_brute_force_to_float64(name, padding):
    truth = brute_force_importance(name, padding)
    result = importance_in_float64(tiny_model(name, torch.float64), **tiny_batch(padding=padding))
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_sites_do_not_depend_on_the_others_that_are_asked_for(name):
    model, batch = tiny_model(name), tiny_batch()
    together = pml.importance(model, **batch)
    assert all(torch.equal(pml.importance(model, **batch, sites=(site,))[site], together[site]) for site in pml.SITES)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_counted_tokens_are_summed_alone(name, padding):
    model, batch = tiny_model(name, torch.float64), tiny_batch(padding=padding)
    counted = batch["attention_mask"].bool() & (torch.arange(batch["attention_mask"].shape[1]) % 3 > 0)
    truth = brute_force(model, **batch, counted=counted)
    with float64_throughout(model), ImportanceProbe(model, ("v", "o")) as probe:
        result, require_finite = probe.launch(**batch, counted=counted)
    require_finite()
    assert max(largest_error(result[site], truth[site]) for site in ("v", "o")) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_importance_with_neurons_off_is_that_of_zeroed_weights(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch(padding="left")
    neurons = random_neurons(model)
    truth = importance_in_float64(with_zeroed_neurons(model, neurons), **batch)
    with pml.deactivate(model, neurons):
        result = importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-12
    off = neurons.sites["v"]
    assert off.any() and not result["v"][:, off].any() and result["v"].any()


@pytest.mark.parametrize("name", NAMES)
def test_importance_with_neurons_of_o_scaled_is_that_of_scaled_columns(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    neurons, scaled = random_neurons(model, sites=("o",)), tiny_model(name, torch.float64)
    for layer, off in zip(scaled.model.layers, neurons.sites["o"]):
        weight = layer.self_attn.o_proj.weight
        weight.data[:, off[: weight.shape[1]]] *= 0.5
    truth = importance_in_float64(scaled, **batch)
    with pml.deactivate(model, neurons, scale=0.5):
        result = importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-12


def test_values_that_pass_a_norm_are_measured_without_a_norm_behind_the_attention(monkeypatch):
    """The model has a module in the norm's place that returns its input, and the entry has no norm there."""
    model, batch = tiny_model("gemma3n_text", torch.float64), tiny_batch(padding="left")
    monkeypatch.setitem(FAMILIES, "gemma3n_text", replace(FAMILIES["gemma3n_text"], attention_norm=None))
    for layer in model.model.layers:
        layer.post_attention_layernorm = torch.nn.Identity()
    truth = brute_force(model, **batch)
    result = importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-12


def test_a_site_that_no_layer_has_is_refused_alone_and_zero_among_others(caplog):
    """All layers have full attention, which takes keys as values."""
    model, batch = tiny_model("gemma4_text-keys-as-values", layer_types=["full_attention"] * 2), tiny_batch()
    sentence = "no layer of this model has neurons of v: each is a layer which takes its keys as values"
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **batch, sites=("v",))
    with caplog.at_level(logging.WARNING, "pymultiling"):
        result = pml.importance(model, **batch)
    assert f"{sentence}; results are zero there" in caplog.text
    assert result["v"].shape == (len(batch["input_ids"]), 2, 0) and result["k"].all()


@pytest.mark.parametrize("name", NAMES)
def test_the_published_scores_are_sums_of_magnitudes(name):
    model, batch = tiny_model(name), tiny_batch((9, 9))
    with ImportanceProbe(model, score="released") as probe:
        result = probe.measure(**batch)
    decoder = Decoder(model)
    seen = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, key=key: seen.__setitem__(key, (args[0], output)))
        for number, layer in enumerate(model.model.layers)
        for key, module in (((number, "o"), layer.self_attn.o_proj), ((number, "ffn"), layer.mlp.up_proj))
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    for (layer, site), (given, output) in seen.items():
        truth = (given if site == "o" else output).abs().sum(1)
        torch.testing.assert_close(result[site][:, layer, : truth.shape[1]], truth)
        if site == "o" and layer in decoder.layers_of("v"):
            size, heads = decoder.layers[layer].value_size, decoder.layers[layer].kv_heads
            by_group = truth.view(len(truth), heads, -1, size).sum(2).flatten(1)
            torch.testing.assert_close(result["v"][:, layer, : by_group.shape[1]], by_group)
    for site, layer in itertools.product(("k", "v"), range(len(model.model.layers))):
        assert bool(result[site][:, layer].any()) == (layer in decoder.layers_of(site))


@pytest.mark.parametrize("name", NAMES)
def test_detection_selects_neurons_that_exist(name, tmp_path):
    model = tiny_model(name)
    corpora = {language: texts(language) for language in ("fr", "de")}
    found = pml.detect(model, tiny_tokenizer(), corpora, select=pml.TopK(0.2, 0.2, share=0.5), progress=False)
    widths = Decoder(model).layer_widths()
    for neurons in found.neurons.values():
        assert all(len(neurons.only(site)) for site in pml.SITES)
        assert all(neurons.layer_widths(site) == widths[site] for site in pml.SITES)
        Decoder(model).check_set(neurons.random_like(0, anywhere=True))
    found.save(tmp_path / "found")
    assert pml.Detection.load(tmp_path / "found").neurons["fr"] == found.neurons["fr"]


@pytest.mark.parametrize("name", SHARING)
def test_keys_of_a_layer_that_takes_them_from_another_are_refused(name):
    model = tiny_model(name)
    mask = torch.zeros(4, Decoder(model).widths()["k"], dtype=torch.bool)
    mask[2, 3] = True
    sentence = "k neurons in layer 2, which takes the keys and values of an earlier layer: give neurons of the layers"
    with pytest.raises(ValueError, match=f"the set has {sentence} that have k, 0, 1"):
        pml.deactivate(model, pml.NeuronSet({"k": mask})).__enter__()


def test_keys_that_are_off_are_off_in_the_values_too():
    model = tiny_model("gemma4_text-keys-as-values")
    seen = []
    model.model.layers[1].self_attn.v_norm.register_forward_hook(lambda _, args, output: seen.append(output))
    neurons = random_neurons(model, sites=("k",))
    with pml.deactivate(model, neurons), torch.no_grad():
        model(**tiny_batch())
    off = neurons.sites["k"][1][:16]
    values = seen[-1].flatten(2)  # the calls before are those of the verification
    assert off.any() and not values[..., off].any() and values[..., ~off].all()


def test_counts_are_of_gates_above_their_cutoff():
    model, batch = tiny_model("gemma3n_text"), tiny_batch((9, 9))
    mask = batch["attention_mask"]
    counts = ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())
    gates = {}
    for number, layer in enumerate(model.model.layers):
        layer.mlp.gate_proj.register_forward_hook(lambda m, args, out, number=number: gates.update({number: out}))
    with torch.no_grad():
        model(**batch)
    for number, layer in enumerate(model.model.layers):
        gate = gates[number]
        if layer.mlp.activation_sparsity > 0:
            gate = layer.mlp._gaussian_topk(gate)
        truth = (gate > 0).flatten(0, 1).sum(0)
        assert torch.equal(counts[number, : len(truth)], truth) and not counts[number, len(truth) :].any()
    assert 0.2 < counts[0, :37].sum() / (18 * 37) < 0.4 < counts[1, :37].sum() / (18 * 37)  # 30% and a half


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_gates_are_those_of_transformers_bit_for_bit(dtype):
    mlp = tiny_model("gemma3n_text", dtype).model.layers[0].mlp
    gate = torch.randn(3, 5, 37, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sparse_gate(gate, mlp.activation_sparsity), mlp._gaussian_topk(gate))


def test_hidden_states_of_several_streams_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="pass on several hidden states of a token"):
        SentenceMeanProbe(tiny_model("gemma3n_text"))


def test_a_mixture_of_experts_beside_the_ffn_is_refused():
    with pytest.raises(pml.UnsupportedModel, match="norms the outputs of its FFN and of a mixture of experts"):
        Decoder(
            tiny_model("gemma4_text", enable_moe_block=True, num_experts=3, top_k_experts=2, moe_intermediate_size=8)
        )


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("gemma4_text", dict(shared_keys=None), "looked for k_proj in Gemma4TextAttention"),
        ("gemma4_text-keys-as-values", dict(keys_as_values=None), "looked for v_proj in Gemma4TextAttention"),
        ("gemma4_text", dict(norm_offset=1.0), "does not pass on the q heads|does not compute an RMSNorm"),
        (
            "gemma4_text",
            dict(v_norm=None, keys_as_values=None),
            "other attention than softmax|more than to sum up what",
        ),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(monkeypatch, name, changes, message):
    model = tiny_model(name)
    monkeypatch.setitem(FAMILIES, "gemma4_text", replace(family_of(model), **changes))
    for sites in (("q", "k"), ("ffn", "v", "o")):
        with pytest.raises(pml.UnsupportedModel, match=message):
            pml.importance(model, **tiny_batch(), sites=sites)


def plant(model, error: str) -> None:
    attention = model.model.layers[1].self_attn
    if error == "values scaled behind their norm":
        attention.v_norm.register_forward_hook(lambda _, args, output: 1.1 * output)
    elif error == "another scale":
        attention.scaling = 0.9
        attention.q_norm.register_forward_hook(lambda _, args, output: 1.1 * output)
    elif error == "queries of a sharing layer":
        model.model.layers[3].self_attn.q_norm.register_forward_hook(lambda _, args, output: 1.1 * output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "error, message",
    [
        ("values scaled behind their norm", r"layers\.1\.self_attn does not pass on the values"),
        ("another scale", r"layers\.1\.self_attn does not pass on the q heads"),
        ("queries of a sharing layer", r"layers\.3\.self_attn does not pass on the q heads"),
    ],
)
@pytest.mark.parametrize("name", SHARING)
def test_a_planted_error_is_refused(name, error, message, dtype):
    model = tiny_model(name, dtype)
    plant(model, error)
    for sites in (("q", "k"), ("v",)):
        with pytest.raises(pml.UnsupportedModel, match=message):
            pml.importance(model, **tiny_batch(), sites=sites)


@pytest.mark.parametrize("name", SHARING)
def test_attention_is_compared_beyond_the_window(name):
    """The copy has all layers, since some take the keys of others; its per-layer inputs are those of the model."""
    model = tiny_model(name, sliding_window=70)
    assert thresholds.lengths_beyond(Decoder(model), 48) == (86, False)
    result = verify(Decoder(model))
    assert result.departures == () == result.notes
    model.model.layers[0].self_attn.sliding_window = 90  # the mask still has 70
    departures = verify(Decoder(model)).departures
    assert departures and all("layers.0.self_attn computes other attention" in each.sentence for each in departures)
    assert all("in 86 tokens" in each.sentence for each in departures)


def test_another_sparsity_than_the_entry_reads_is_refused(monkeypatch):
    model = tiny_model("gemma3n_text")
    monkeypatch.setitem(FAMILIES, "gemma3n_text", replace(FAMILIES["gemma3n_text"], gate_sparsity=None))
    with pytest.raises(
        pml.UnsupportedModel, match=r"layers\.0\.mlp's down projection is not gelu_pytorch_tanh\(gate\)"
    ):
        pml.activations(model, tiny_tokenizer(), {"fr": texts("fr")})


@pytest.mark.parametrize("name", NAMES)
def test_the_check_of_doctor_agrees(name):
    differences = spot_check(tiny_model(name))
    assert list(differences) == list(pml.SITES) and max(differences.values()) < 1e-4


def cost_of_v(model) -> float:
    """Returns the products of v's importance in 512 tokens, in units of those with the weights of all layers."""
    values = [layer.self_attn.v_proj.weight for layer in model.model.layers[:2]]
    return 513 / 2 * sum(weight.numel() for weight in values) / sum(p.numel() for p in model.model.layers.parameters())


def test_doctor_says_what_is_lacking_and_what_is_slow(tmp_path, capsys):
    save_model(tmp_path, tiny_model("gemma4_text"))
    assert main(["doctor", "--model", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "ffn     19 or 38 neurons per layer" in printed and "k       0, 16 or 32 neurons per layer" in printed
    assert "4 query heads, 2 key-value heads, of size 8; or 4 query heads, 2 key-value heads, of size 16" in printed
    assert "Layers 2, 3 have no neurons of k and v, and results are zero there: each is a layer which takes" in printed
    cost = f"up to {cost_of_v(tiny_model('gemma4_text')):.2g} times the multiplications of the layers' weights"
    assert "Values pass a norm (v_norm), in which a neuron changes its whole head" in printed and cost in printed


@pytest.mark.parametrize(
    "fields, rule",
    [
        ({"v_norm": "v_norm", "interface": False}, "v_norm need interface=True"),
        ({"v_norm": "v_norm", "output_gate": True}, "with v_norm, kv, output_gate, position_bias"),
        ({"keys_as_values": "same"}, "keys_as_values needs v_norm"),
        ({"shared_keys": ("a", "b"), "q_norm": "q", "k_norm": "k", "centred_norms": True}, "shared_keys needs"),
        ({"gate_sparsity": "s", "gate": None}, "gate_sparsity needs gate"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        pml.Family(**fields)
