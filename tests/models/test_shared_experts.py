"""Experts that every token passes (Qwen2-MoE, ERNIE 4.5): addresses, counts, means, sets, and planted errors.

tests/models/test_further_families.py compares their importance with brute force.
"""

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.importance import ImportanceProbe
from pymultiling.probes.verification.verify import verify
from pymultiling.probes.verification.zeroing import spot_check
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import shared_expert_of
from tests.support.comparison import brute_force_importance, importance_in_float64, largest_error
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer

NAMES = ("qwen2_moe", "ernie4_5_moe", "granitemoeshared", "laguna", "aria_text", "flint")
ROUTED = 40  # five experts of 8 neurons


def shared_inputs(model, batch) -> dict[str, list[torch.Tensor]]:
    """Runs the model and returns what each layer's shared expert gets and computes, {name: one tensor a layer}."""
    seen, handles = {"gate": [], "up": [], "hidden": []}, []
    for layer in model.model.layers:
        shared = shared_expert_of(layer)
        is_fused = hasattr(shared, "input_linear")  # Granite's, which the decoder layer calls
        for part, name in enumerate(("gate", "up")):

            def see(_, args, out, part=part, name=name, is_fused=is_fused):
                seen[name].append(out.chunk(2, -1)[part] if is_fused else out)

            projection = shared.input_linear if is_fused else getattr(shared, f"{name}_proj")
            handles.append(projection.register_forward_hook(see))
        down = shared.output_linear if is_fused else shared.down_proj
        handles.append(down.register_forward_pre_hook(lambda _, args: seen["hidden"].append(args[0])))
    logits(model, batch)
    for handle in handles:
        handle.remove()
    return {name: [x.flatten(0, -2) for x in tensors] for name, tensors in seen.items()}


@pytest.mark.parametrize("padding", ["left", "right"])
def test_importance_of_qwen2_moe_is_brute_force_to_float64(padding):
    """Its routers' softmax is float32 in transformers, on both sides; ERNIE 4.5 also rotates in float32."""
    truth = brute_force_importance("qwen2_moe", padding)
    result = importance_in_float64(tiny_model("qwen2_moe", torch.float64), **tiny_batch(padding=padding))
    assert max(largest_error(result[site], truth[site]) for site in truth) < 1e-10
    assert (truth["ffn"][:, :, ROUTED:] > 0).all()


def test_layers_without_a_shared_expert_are_as_wide_as_their_experts():
    assert Decoder(tiny_model("ernie4_5_moe")).widths()["ffn"] == 48
    assert Decoder(tiny_model("ernie4_5_moe-unshared")).widths()["ffn"] == 40


def test_dense_layers_have_no_experts():
    layers = Decoder(tiny_model("qwen2_moe-half-dense")).layers
    assert layers[0].experts is layers[0].shared is None and layers[0].dense is layers[0].ffn_parts
    assert layers[1].experts is not None and layers[1].dense is layers[1].shared.parts


def test_by_expert_leaves_the_shared_expert_out():
    neurons = random_neurons(tiny_model("qwen2_moe"))
    mask = neurons.sites["ffn"]
    assert torch.equal(neurons.by_expert(5, shared=12), mask[:, :ROUTED].view(2, 5, 8))
    for experts, shared in ((5, 0), (5, 52), (5, -1), (7, 12)):
        with pytest.raises(ValueError, match="cannot be split among"):
            neurons.by_expert(experts, shared=shared)


def test_by_expert_leaves_dense_layers_out():
    neurons = random_neurons(tiny_model("qwen2_moe-half-dense"))
    expected = neurons.sites["ffn"][:, :ROUTED].view(2, 5, 8).clone()
    assert expected[0].any() and neurons.layer_widths("ffn") == (44, 52)
    expected[0] = False
    assert torch.equal(neurons.by_expert(5, shared=12, size=8), expected)
    for options in (dict(shared=12), dict(shared=12, size=7), dict(size=8)):
        with pytest.raises(ValueError, match="the set has 44 or 52 ffn neurons a layer, which cannot be split among 5"):
            neurons.by_expert(5, **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_published_score_is_the_sum_of_up(name):
    model, batch = tiny_model(name), tiny_batch((9, 9))
    with ImportanceProbe(model, "ffn", score="released") as probe:
        result = probe.measure(**batch)["ffn"]
    for layer, up in enumerate(shared_inputs(model, batch)["up"]):
        torch.testing.assert_close(result[:, layer, ROUTED:], up.view(2, 9, -1).abs().sum(1))


def counts_of_first_layer(model, batch) -> torch.Tensor:
    mask = batch["attention_mask"]
    return ActivationProbe(model).measure(batch["input_ids"], mask, mask.bool())[0]


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_of_positive_gates(name):
    model, batch = tiny_model(name), tiny_batch((9, 9))
    truth = (shared_inputs(model, batch)["gate"][0] > 0).sum(0)
    assert torch.equal(counts_of_first_layer(model, batch)[ROUTED:], truth)


@pytest.mark.parametrize("name", [*NAMES, "qwen2_moe-half-dense"])
def test_neurons_that_are_off_are_not_active(name):
    """In the first layer, whose inputs do not depend on the set, the counts of the other neurons stay."""
    model, batch = tiny_model(name), tiny_batch()
    neurons, plain = random_neurons(model, sites=("ffn",)), counts_of_first_layer(model, batch)
    with pml.deactivate(model, neurons):
        counts = counts_of_first_layer(model, batch)
    off = neurons.sites["ffn"][0]
    assert off[ROUTED:].any() and (plain[ROUTED:] > 0).any()
    assert torch.equal(counts, plain.masked_fill(off, 0))


@pytest.mark.parametrize("name", NAMES)
def test_means_are_over_all_tokens(name):
    model, tokenizer = tiny_model(name, torch.float64), tiny_tokenizer()
    text = texts("fr")[:1]
    tokens = torch.tensor([tokenizer(text[0])["input_ids"]])
    means = pml.mean_activations(model, tokenizer, text)["ffn"]
    hidden = shared_inputs(model, dict(input_ids=tokens, attention_mask=torch.ones_like(tokens)))["hidden"]
    for layer, x in enumerate(hidden):
        torch.testing.assert_close(means[layer, ROUTED:], x.mean(0).float())


@pytest.mark.parametrize("name", [*NAMES, "qwen2_moe-half-dense"])
def test_rows_are_under_their_own_sets(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    a, b = random_neurons(model, seed=1, sites=("ffn",)), random_neurons(model, seed=2, sites=("ffn",))
    without_a, without_b = (logits(with_zeroed_neurons(model, neurons), batch) for neurons in (a, b))
    with pml.deactivate(model, [b, a]):
        result = logits(model, batch)
    assert difference(result[:9], without_b[:9]) < TOLERANCE[torch.float64]
    assert difference(result[9:], without_a[9:]) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("name", NAMES)
def test_generation_is_that_of_the_zeroed_model(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model, fraction=0.5)
    options = dict(max_new_tokens=8, do_sample=False)
    truth = with_zeroed_neurons(model, neurons).generate(**batch, **options)
    with pml.deactivate(model, [None, neurons]):
        result = model.generate(**batch, **options)
    assert torch.equal(result[1], truth[1]) and torch.equal(result[0], model.generate(**batch, **options)[0])


def test_importance_leaves_a_scaled_output_of_the_shared_expert_to_the_gate():
    """A gate that is 0 (sigmoid of -inf) makes all neurons of the shared expert count for nothing."""
    model = tiny_model("qwen2_moe")
    for layer in model.model.layers:
        layer.mlp.shared_expert_gate.register_forward_hook(lambda _, args, output: output.fill_(-torch.inf))
    result = pml.importance(model, **tiny_batch(), verify=False)["ffn"]
    assert (result[:, :, ROUTED:] == 0).all() and (result[:, :, :ROUTED].amax(-1) > 0).all()


@pytest.mark.parametrize("name", [*NAMES, "glm4_moe", "granitemoe_swa"])
def test_doctor_finds_agreement(name):
    assert max(spot_check(tiny_model(name, torch.float64)).values()) < 1e-4


@pytest.mark.parametrize("name", [*NAMES, "qwen2_moe-half-dense", "qwen3_moe-half-dense"])
def test_ffn_neurons_cannot_be_trained_alone(name):
    model = tiny_model(name)
    with pytest.raises(pml.UnsupportedModel, match="FFN neurons of experts, which cannot be trained alone"):
        pml.train_only(model, random_neurons(model))


def test_a_sum_with_the_shared_expert_that_is_divided_is_refused():
    with pytest.raises(pml.UnsupportedModel, match="divides the sum of its experts and its shared expert by 2"):
        Decoder(tiny_model("cohere2_moe", shared_expert_combination_strategy="average"))


def plant(model, error: str) -> None:
    mlp = model.model.layers[1].mlp
    shared = mlp.shared_expert
    if error == "gate left out":
        forward = mlp.forward
        gate = mlp.shared_expert_gate

        def without_gate(states):
            output = forward(states)
            x = states.view(-1, states.shape[-1])
            with torch.no_grad():
                return output + ((1 - gate(x).sigmoid()) * shared(x)).view(output.shape)

        mlp.forward = without_gate
    elif error == "another activation":
        shared.act_fn = torch.nn.GELU()
    elif error == "a hook after down":
        shared.down_proj.register_forward_hook(lambda _, args, output: 1.01 * output)
    else:
        shared.up_proj.register_forward_hook(lambda _, args, output: output + 0.1)


@pytest.mark.parametrize(
    "error, message",
    [
        ("gate left out", "sum of its experts and its shared expert"),
        ("another activation", "down projection is not silu"),
        ("a hook after down", "down_proj does not return its weight times its input"),
        ("a hook after up", "up_proj does not return its weight times its input"),
    ],
)
def test_verification_names_a_planted_error(error, message):
    model = tiny_model("qwen2_moe")
    plant(model, error)
    departures = verify(Decoder(model)).departures
    assert any(message in departure.sentence for departure in departures), departures
    assert all("layers.1." in departure.sentence for departure in departures if message in departure.sentence)


def test_a_set_of_another_family_entry_is_refused():
    with pytest.raises(ValueError, match="shared_expert needs experts"):
        pml.Family(shared_expert="shared")
    with pytest.raises(ValueError, match="shared_expert_gate and shared_expert_in_layer need shared"):
        pml.Family(experts="experts", shared_expert_gate="gate")
    with pytest.raises(ValueError, match="shared_expert_gate needs shared_expert_in_layer=False"):
        pml.Family(experts="experts", shared_expert="shared", shared_expert_gate="gate", shared_expert_in_layer=True)
