"""Llama 4: attention in chunks, norms without weights, queries scaled in layers that do not rotate, scaled inputs.

tests/models/test_further_families.py compares importance with brute force, and deactivated neurons with zeroed ones.
"""

from dataclasses import replace

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.families import FAMILIES
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import logits
from tests.support.anatomy import layers_of
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

NAMES = ("llama4_text", "llama4_text-experts")
EXPERTS, WIDTH = 6, 8


def family_of(model, **changes) -> pml.Family:
    """Returns the entry of the model with some fields changed."""
    return replace(FAMILIES["llama4_text"](model.config), **changes)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_importance_is_brute_force_to_float64(name, padding):
    """Documents are longer than two chunks, and than two ranges of positions that share a factor of the queries."""
    model, batch = tiny_model(name, torch.float64), tiny_batch(padding=padding)
    assert model.config.attention_chunk_size == model.config.floor_scale == 4
    assert min(batch["attention_mask"].sum(1)) < 8 < max(batch["attention_mask"].sum(1))
    truth, result = brute_force_importance(name, padding), importance_in_float64(model, **batch)
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10


@pytest.mark.parametrize("rope", ["pre", "post"])
def test_documents_no_longer_than_a_chunk_are_not_split(rope):
    model = tiny_model("llama4_text", torch.float64, attention_chunk_size=11)
    other = tiny_model("llama4_text", torch.float64, attention_chunk_size=64)
    results = [pml.importance(each, **tiny_batch(), sites=("q", "k"), rope=rope) for each in (model, other)]
    for site in ("q", "k"):
        torch.testing.assert_close(*(result[site] for result in results), rtol=1e-9, atol=1e-15)


def test_the_estimate_is_exact_where_queries_see_few_keys():
    model, batch = tiny_model("llama4_text", torch.float64), tiny_batch()
    exact, fast = (pml.importance(model, **batch, sites=("q", "k"), qk=mode) for mode in ("exact", "fast"))
    for site in ("q", "k"):
        torch.testing.assert_close(fast[site], exact[site], rtol=1e-9, atol=1e-12)


def routed_hidden(model, batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Runs the model. Returns for the experts of each layer their inputs, gates and hidden products, (E, tokens, N)."""
    seen = []

    def see(experts, args):
        x = args[0].view(EXPERTS, -1, args[0].shape[-1])
        gate, up = (x @ experts.gate_up_proj).chunk(2, -1)
        seen.append((x, gate, torch.nn.functional.silu(gate) * up))

    handles = [layer.feed_forward.experts.register_forward_pre_hook(see) for layer in layers_of(model)]
    logits(model, batch)
    for handle in handles:
        handle.remove()
    return seen


def test_counts_are_those_of_positive_gates_and_leave_the_output_as_it_is():
    model, batch = tiny_model("llama4_text-experts"), tiny_batch((9, 9))
    truth = torch.stack([(gate > 0).sum(1).flatten() for _, gate, _ in routed_hidden(model, batch)])
    expected, mask = logits(model, batch), batch["attention_mask"]
    counts = ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())
    assert torch.equal(counts[:, : EXPERTS * WIDTH], truth) and truth.any()
    assert torch.equal(logits(model, batch), expected)


def test_means_are_over_the_tokens_that_are_routed_to_the_expert():
    model, tokenizer = tiny_model("llama4_text-experts", torch.float64), tiny_tokenizer()
    text = texts("fr")[:1]
    tokens = torch.tensor([tokenizer(text[0])["input_ids"]])
    means = pml.mean_activations(model, tokenizer, text)["ffn"]
    batch = dict(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    for layer, (x, _, hidden) in enumerate(routed_hidden(model, batch)):
        count = x.any(-1).sum(-1)
        assert count.sum() == 2 * tokens.numel()  # two experts for each token
        mean = hidden.sum(1) / count.clamp(min=1)[:, None]
        torch.testing.assert_close(means[layer, : EXPERTS * WIDTH], mean.flatten().float())


def test_detect_and_perplexity_run_the_whole_way():
    model, tokenizer = tiny_model("llama4_text"), tiny_tokenizer()
    detection = pml.detect(model, tokenizer, {"fr": texts("fr"), "de": texts("de")}, progress=False)
    total = sum(
        pml.importance(model, torch.tensor([tokenizer(text)["input_ids"]]))["ffn"][0].double() for text in texts("fr")
    )
    mean = detection.statistics["fr"].mean("ffn").double()
    torch.testing.assert_close(mean, total / len(texts("fr")), rtol=1e-3, atol=1e-7)
    assert pml.perplexity(model, tokenizer, texts("fr"), progress=False) > 1


@pytest.mark.parametrize("name", NAMES)
def test_doctor_finds_agreement(name):
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-4


LONG = dict(attention_chunk_size=8192, floor_scale=8192)  # as in the published models; verification cuts them down
ATTENTION = "computes other attention than softmax"
HEADS = "does not pass on the q heads"


@pytest.mark.parametrize("lengths", [{}, LONG])
@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda family: dict(chunk=None), ATTENTION),
        (lambda family: dict(chunk=family.chunk - 1), ATTENTION),
        (lambda family: dict(query_scaling=None, query_scaling_unrotated=False), HEADS),
        (lambda family: dict(query_scaling=(1.1 * family.query_scaling[0], family.query_scaling[1])), HEADS),
        (lambda family: dict(query_scaling=(family.query_scaling[0], 2 * family.query_scaling[1])), HEADS),
        (lambda family: dict(norms_behind_rotation=False, q_norm=None, k_norm=None), HEADS),
    ],
)
def test_an_entry_with_another_attention_is_refused(monkeypatch, changes, message, lengths):
    entry = FAMILIES["llama4_text"]
    model = tiny_model("llama4_text", **lengths)
    assert verify(Decoder(model)).departures == ()
    monkeypatch.setitem(FAMILIES, "llama4_text", lambda config: replace(entry(config), **changes(entry(config))))
    departures = verify(Decoder(tiny_model("llama4_text", **lengths))).departures
    assert any(message in departure.sentence for departure in departures), departures


@pytest.mark.parametrize("lengths", [{}, LONG])
@pytest.mark.parametrize("field, factor", [("attn_scale", 1.1), ("attn_scale", 0), ("floor_scale", 2)])
def test_a_layer_that_scales_its_queries_otherwise_is_refused(field, factor, lengths):
    """Layer 1, which does not rotate."""
    model = tiny_model("llama4_text", **lengths)
    attention = layers_of(model)[1].self_attn
    setattr(attention, field, factor * getattr(attention, field))
    with pytest.raises(pml.UnsupportedModel, match=rf"layers.1.self_attn {HEADS}"):
        pml.importance(model, **tiny_batch(), sites=("q",))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"scaled_expert_inputs": False}, "run_experts|index"),
        ({"transposed_experts": False}, "transposed_experts=False"),
        ({"shared_expert": None}, "does not return the output of"),
    ],
)
def test_an_entry_with_other_experts_is_refused(monkeypatch, changes, message):
    model = tiny_model("llama4_text-experts")
    monkeypatch.setitem(FAMILIES, "llama4_text", family_of(model, **changes))
    with pytest.raises(pml.UnsupportedModel, match=message):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize(
    "fields, rule",
    [
        ({"scaled_expert_inputs": True}, "need experts"),
        ({"complex_tables": True}, "complex_tables needs interleaved=True"),
        ({"query_scaling_unrotated": True, "rotates": "use_rope"}, "query_scaling_unrotated needs query_scaling"),
        ({"chunk": 4, "interface": False}, "chunk needs interface=True"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        pml.Family(**fields)
