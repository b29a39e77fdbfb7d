"""gpt-oss: attention sinks, and experts with biases, transposed weights, gate and up in turn, and a clamped product.

tests/models/test_further_families.py compares importance with brute force, and deactivated neurons with zeroed ones.
"""

import sys
from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import routed_gate_and_up
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import save_model, texts, tiny_tokenizer

LAYER = 1


def family_of(model, **changes) -> pml.Family:
    """Returns the entry of the model with some fields changed."""
    return replace(FAMILIES["gpt_oss"](model.config), **changes)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_importance_is_brute_force_to_float64(padding):
    """Documents are longer than the sliding window and than the original context of YaRN."""
    model, batch = tiny_model("gpt_oss", torch.float64), tiny_batch(padding=padding)
    rotation = model.config.rope_parameters
    assert max(batch["attention_mask"].sum(1)) > rotation["original_max_position_embeddings"] > 4
    assert [layer.self_attn.sliding_window for layer in model.model.layers] == [4, None]
    truth = brute_force_importance("gpt_oss", padding)
    result = importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10


def test_the_estimate_is_exact_where_queries_see_few_keys():
    model, batch = tiny_model("gpt_oss", torch.float64), tiny_batch()
    exact, fast = (pml.importance(model, **batch, sites=("q", "k"), qk=mode) for mode in ("exact", "fast"))
    for site in ("q", "k"):
        torch.testing.assert_close(fast[site], exact[site], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
def test_other_implementations_of_experts_agree_to_rounding(implementation):
    model = tiny_model("gpt_oss", experts_implementation=implementation)
    result, truth = (pml.importance(x, **tiny_batch()) for x in (model, tiny_model("gpt_oss")))
    for site in pml.SITES:
        torch.testing.assert_close(result[site], truth[site], rtol=1e-3, atol=1e-6 * truth[site].max().item())


def test_counts_are_those_of_the_gates():
    """A neuron of an expert is active where the token is routed to the expert and the gate is above 0."""
    model, batch, gates = tiny_model("gpt_oss"), tiny_batch((9, 9)), []
    hooks = [
        layer.mlp.experts.register_forward_pre_hook(
            lambda experts, args: gates.append(routed_gate_and_up(experts, *args[:2], -1.0)[0])
        )
        for layer in model.model.layers
    ]
    expected = logits(model, batch)
    for hook in hooks:
        hook.remove()
    truth = torch.stack([(gate > 0).sum(0) for gate in gates])
    mask = batch["attention_mask"]
    counts = ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())
    assert torch.equal(counts, truth) and truth.any()
    assert torch.equal(logits(model, batch), expected)


def test_detect_averages_the_importance_of_the_documents():
    model, tokenizer = tiny_model("gpt_oss"), tiny_tokenizer()
    detection = pml.detect(model, tokenizer, {"fr": texts("fr"), "de": texts("de")}, progress=False)
    for language in ("fr", "de"):
        total = sum(
            pml.importance(model, torch.tensor([tokenizer(text)["input_ids"]]))["ffn"][0].double()
            for text in texts(language)
        )
        statistics = detection.statistics[language]
        mean = total / len(texts(language))
        torch.testing.assert_close(statistics.mean("ffn").double(), mean, rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_rows_are_under_their_own_sets():
    model, batch = tiny_model("gpt_oss", torch.float64), tiny_batch((9, 9))
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    without_a, without_b = (logits(with_zeroed_neurons(model, neurons), batch) for neurons in (a, b))
    assert difference(without_a, without_b) > 1e-2
    with pml.deactivate(model, [b, a]):
        result = logits(model, batch)
    assert difference(result[:9], without_b[:9]) < TOLERANCE[torch.float64]
    assert difference(result[9:], without_a[9:]) < TOLERANCE[torch.float64]


def test_doctor_finds_agreement():
    assert max(spot_check(tiny_model("gpt_oss", torch.float64)).values()) < 1e-4


def test_doctor_names_no_slow_kernel(tmp_path, capsys):
    """Triton's kernels take sinks."""
    save_model(tmp_path, tiny_model("gpt_oss"))
    assert main(["doctor", "--model", str(tmp_path), "--no-check"]) == 0
    assert "plain PyTorch" not in capsys.readouterr().out


def attend_with_other_sinks(monkeypatch, model, change: str) -> None:
    """Replaces the eager attention by one that gets other sinks: none, or those of the next head."""
    source = sys.modules[type(model).__module__]
    original = source.eager_attention_forward

    def attend(module, *args, **kwargs):
        sinks = module.sinks.data.clone()
        module.sinks.data.copy_(sinks.roll(1) if change == "another head" else torch.full_like(sinks, -torch.inf))
        try:
            return original(module, *args, **kwargs)
        finally:
            module.sinks.data.copy_(sinks)

    monkeypatch.setattr(source, "eager_attention_forward", attend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", ["ignored", "another head"])
def test_an_attention_with_other_sinks_is_refused(monkeypatch, change, dtype):
    model = tiny_model("gpt_oss", dtype)
    attend_with_other_sinks(monkeypatch, model, change)
    departures = verify(Decoder(model)).departures
    assert {departure.check for departure in departures} == {"scores"}
    assert "soft cap None and sinks sinks" in departures[0].sentence
    with pytest.raises(pml.UnsupportedModel, match="sinks sinks"):
        pml.importance(model, **tiny_batch(), sites=("q", "k"))


def test_an_entry_without_sinks_is_refused(monkeypatch):
    model = tiny_model("gpt_oss")
    monkeypatch.setitem(FAMILIES, "gpt_oss", family_of(model, sinks=None))
    with pytest.raises(pml.UnsupportedModel, match="soft cap None and sinks None"):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sinks": "sink"}, "the family's sinks, sink of GptOssAttention, must have a score for each of 4 query heads"),
        ({"transposed_experts": False}, "transposed_experts=False"),
        ({"interleaved_experts": False}, "do not fit the family's interleaved_experts"),
        ({"clamped_swiglu": None}, "do not fit the family's clamped_swiglu"),
        ({"clamped_swiglu": (1.702, 7.0)}, "experts does not compute the sum over experts"),
        ({"clamped_swiglu": (1.0, 0.5)}, "experts does not compute the sum over experts"),
        ({"single_tables": False}, "cos|table|size"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(monkeypatch, changes, message):
    model = tiny_model("gpt_oss")
    if changes.get("clamped_swiglu") == family_of(model).clamped_swiglu:
        pytest.skip("this transformers has the published numbers in its code, and no fields for others")
    monkeypatch.setitem(FAMILIES, "gpt_oss", family_of(model, **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(model, **tiny_batch())


def test_transposed_experts_with_as_many_neurons_as_inputs_are_told_apart():
    """As in gpt-oss, the shapes of down_proj do not show which dimension is that of the neurons."""
    model = tiny_model("gpt_oss", torch.float64, intermediate_size=32)
    neurons, batch = random_neurons(model, sites=("ffn",)), tiny_batch()
    truth = logits(with_zeroed_neurons(model, neurons), batch)
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]


@pytest.mark.parametrize(
    "fields, rule",
    [
        ({"sinks": "sinks", "interface": False}, "sinks needs interface=True"),
        ({"transposed_experts": True}, "need experts"),
        ({"single_tables": True, "interleaved": True}, "single_tables needs interleaved=False"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        pml.Family(**fields)


def test_sinks_with_a_norm_over_all_heads_are_refused(monkeypatch):
    """whole_norm_importance, which such a norm needs, takes no sinks."""
    model = tiny_model("olmo2")
    for layer in model.model.layers:
        layer.self_attn.sinks = torch.nn.Parameter(torch.zeros(4))
    monkeypatch.setitem(FAMILIES, "olmo2", replace(FAMILIES["olmo2"], sinks="sinks"))
    with pytest.raises(pml.UnsupportedModel, match="layer 0 has sinks and a norm of its queries over all heads"):
        Decoder(model)
