"""Mixtures of experts whose entries have fields of their own, or combine what other families have.

Laguna: softplus gates for heads or values, layers with their own numbers of heads, and a factor of the experts' sum.
A.X-K1: a norm inside the FFN. DBRX: gate, up and down of all experts in a matrix each.
tests/models/test_further_families.py compares their importance with brute force.
"""

from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.models.experts import change_hidden
from pymultiling.models.families import FAMILIES, family_of
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.models.test_llama4 import NAMES as LLAMA4
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import expert_weights, experts_of, layers_of
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import MORE_MODELS, random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

ATTENTION = r"computes other attention than softmax\(scores\)"


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", ["laguna", "laguna-half-dense", "kolibri1", "flint", "axk1", "dbrx", "dbrx-one-key"])
def test_importance_is_brute_force_to_float64(name, padding):
    truth = brute_force_importance(name, padding)
    result = importance_in_float64(tiny_model(name, torch.float64), **tiny_batch(padding=padding))
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10


@pytest.mark.parametrize("name", MORE_MODELS)
def test_the_check_of_doctor_agrees(name):
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", [*MORE_MODELS, *LLAMA4])
def test_rows_are_under_their_own_sets(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    without_a, without_b = (logits(with_zeroed_neurons(model, neurons), batch) for neurons in (a, b))
    with pml.deactivate(model, [b, a]):
        result = logits(model, batch)
    assert difference(without_a, without_b) > 1e-2
    assert difference(result[:9], without_b[:9]) < TOLERANCE[torch.float64]
    assert difference(result[9:], without_a[9:]) < TOLERANCE[torch.float64]


def routed_parts(model, batch) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Runs the model. Returns for each layer which tokens each expert gets, and their gates and hidden products.

    They are (tokens, E) bool, (tokens, E, I) and (tokens, E, I), from the parameters.
    """
    found, activation = [], torch.nn.functional.silu

    def see(experts, args):
        states, index, _ = args
        x = states.flatten(0, -2)
        gate, up, _ = expert_weights(experts)
        is_routed = torch.zeros(len(x), len(gate), dtype=torch.bool).scatter_(1, index, True)
        gates = torch.einsum("td,eid->tei", x, gate)
        found.append((is_routed, gates, activation(gates) * torch.einsum("td,eid->tei", x, up)))

    handles = [experts_of(layer).register_forward_pre_hook(see) for layer in layers_of(model)]
    logits(model, batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["aria_text", "axk1", "dbrx", "laguna", "mellum"])
def test_counts_are_those_of_positive_gates_and_leave_the_output_as_it_is(name):
    model, batch = tiny_model(name), tiny_batch((9, 9))
    parts, expected, mask = routed_parts(model, batch), logits(model, batch), batch["attention_mask"]
    truth = torch.stack([((gates > 0) & is_routed[..., None]).sum(0).flatten() for is_routed, gates, _ in parts])
    counts = ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())
    assert torch.equal(counts[:, : truth.shape[1]], truth) and truth.any()
    with ExitStack() as stack:  # what counts neurons, in the place of the experts' own forward
        for layer in Decoder(model).layers:
            stack.enter_context(change_hidden(layer.experts, lambda routed: None))
        assert torch.equal(logits(model, batch), expected)


@pytest.mark.parametrize("name", ["aria_text", "axk1", "dbrx", "laguna", "mellum"])
def test_means_are_over_the_tokens_that_are_routed_to_the_expert(name):
    model, tokenizer = tiny_model(name, torch.float64), tiny_tokenizer()
    text = texts("fr")[:1]
    tokens = torch.tensor([tokenizer(text[0])["input_ids"]])
    means = pml.mean_activations(model, tokenizer, text)["ffn"]
    batch = dict(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    for layer, (is_routed, _, hidden) in enumerate(routed_parts(model, batch)):
        total = hidden.masked_fill(~is_routed[..., None], 0).sum(0)
        mean = (total / is_routed.sum(0).clamp(min=1)[:, None]).flatten()
        torch.testing.assert_close(means[layer, : len(mean)], mean.float())


def test_layers_of_laguna_differ_in_query_heads():
    first, second = Decoder(tiny_model("laguna")).layers
    assert [(layer.heads, layer.kv_heads, layer.head_size) for layer in (first, second)] == [(4, 2, 8), (6, 2, 8)]
    assert (first.output_gate.width, second.output_gate.width) == (4, 6)
    assert Decoder(tiny_model("laguna-half-dense")).layers[0].output_gate.width == 32


@pytest.mark.parametrize(
    "name, changes, sentence",
    [
        ("laguna", dict(gate_function="sigmoid"), rf"{ATTENTION} v sigmoid\(gate\)"),
        ("laguna-half-dense", dict(gate_function="sigmoid"), rf"{ATTENTION} v sigmoid\(gate\)"),
        ("laguna", dict(output_gate=False, gate_function="sigmoid"), f"{ATTENTION} v with scale"),
        ("laguna", dict(output_gate="k_proj"), "layer 0: k_proj gives 16 gates, and there are 32 values of 4 heads"),
        ("laguna", dict(own_heads=None), "layer 1: the widths of queries, keys and values, 48, 16 and 16, do not fit"),
        (
            "laguna",
            dict(own_heads="heads"),
            "layer 0: LagunaAttention has no number of heads under .* own_heads, heads",
        ),
        ("laguna", dict(routed_scale=1.0), "does not return the sum of its experts and its shared expert"),
        ("axk1", dict(experts_norm=None), "does not return the sum of its experts and its shared expert"),
        ("dbrx", dict(expert_parts=("mlp.v1", "mlp.w1", "mlp.w2", "mlp.activation_fn")), "the sum over experts"),
        ("dbrx", dict(expert_parts=("mlp.w1", "mlp.v1", "mlp.w3", "mlp.activation_fn")), "are not mlp.w1, mlp.v1, ml"),
        ("dbrx", dict(expert_parts=None), "the experts of layer 0 are no gate_up_proj"),
        ("dbrx", dict(clip=None), "does not pass on the q heads"),
        ("aria_text", dict(transposed_experts=False), "transposed_experts=False"),
        ("flint", dict(rotates=None), "does not pass on the q heads"),
        ("flint", dict(sinks=None), ATTENTION),
        ("kolibri1", dict(rotates=None), "does not pass on the q heads"),
    ],
)
def test_another_entry_is_refused(monkeypatch, name, changes, sentence):
    model = tiny_model(name)
    monkeypatch.setitem(FAMILIES, model.config.model_type, replace(family_of(model), **changes))
    with pytest.raises(pml.UnsupportedModel, match=sentence):
        pml.importance(model, **tiny_batch())


def test_an_ffn_that_does_not_call_its_norm_is_refused():
    model = tiny_model("axk1")
    model.model.layers[1].mlp.forward = lambda x: torch.nn.functional.rms_norm(x, x.shape[-1:])
    with pytest.raises(pml.UnsupportedModel, match=r"layers.1.mlp does not call model.layers.1.mlp.post_mlp_layernorm"):
        pml.importance(model, **tiny_batch())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_factor_of_the_experts_is_refused(dtype):
    model = tiny_model("laguna", dtype)
    with mock.patch.object(model.model.layers[1].mlp, "routed_scaling_factor", 1.4):
        assert {departure.check for departure in verify(Decoder(model)).departures} == {"ffn"}


@pytest.mark.parametrize(
    "fields, rule",
    [
        (dict(gate_function="softplus"), 'gate_function must be "sigmoid", or "softplus" with output_gate'),
        (dict(gate_function="tanh", output_gate=True), "gate_function must be"),
        (dict(routed_scale=2.0, experts="experts"), "routed_scale needs shared_expert"),
        (
            dict(routed_scale=2.0, experts="experts", shared_expert="shared", shared_expert_in_layer=True),
            "routed_scale needs shared_expert",
        ),
        (dict(experts_norm="norm"), "experts_norm needs experts"),
        (dict(experts_norm="norm", experts="experts", ffn_norm="norm"), "experts_norm needs experts, ffn_norm=None"),
        (dict(expert_parts=("a", "b", "c", "d")), "expert_parts needs experts"),
        (dict(expert_parts=("a", "b", "c", "d"), experts="experts", transposed_experts=True), "expert_parts needs"),
    ],
)
def test_entries_that_contradict_themselves_are_refused(fields, rule):
    with pytest.raises(ValueError, match=rule):
        pml.Family(**fields)
