"""Measuring importance leaves the model as it was, and the measured forward gives the model's usual output."""

from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.probes.importance import ImportanceProbe
from tests.support.brute_force import float64_throughout
from tests.support.comparison import importance_in_float64, largest_error, set_attention
from tests.support.tiny_models import (
    REPRESENTATIVE_MODELS,
    hidden_of,
    random_neurons,
    tiny_batch,
    tiny_model,
    with_zeroed_neurons,
)


@torch.no_grad()
def last_hidden(model, batch) -> torch.Tensor:
    return hidden_of(model, batch)


def probed_hidden(model, batch, **arguments) -> torch.Tensor:
    """Returns the last hidden states of the forward that is measured."""
    outputs = []
    handle = model.base_model.register_forward_hook(lambda _, args, output: outputs.append(output[0]))
    with ImportanceProbe(model, **arguments) as probe:
        probe.measure(**batch)
    handle.remove()
    return outputs[-1]  # the first ones verify the model


def snapshot(model) -> dict:
    """Returns everything of a model that a probe could leave changed."""
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module))
        for name, module in model.named_modules()
    ]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.requires_grad for parameter in model.parameters()]
    return dict(
        hooks=hooks,
        weights=weights,
        gradients=gradients,
        attention=model.config._attn_implementation,
        mode=model.training,
    )


def assert_untouched(model, before: dict) -> None:
    after = snapshot(model)
    weights, weights_before = after.pop("weights"), before["weights"]
    assert all(torch.equal(weights[name], weights_before[name]) for name in weights_before)
    assert after == {key: value for key, value in before.items() if key != "weights"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_a_probed_model_computes_the_same_bits(name, attention):
    model, batch = set_attention(tiny_model(name), attention), tiny_batch()
    is_token = batch["attention_mask"].bool()
    plain = last_hidden(model, batch)[is_token]
    for arguments in (dict(), dict(rope="post"), dict(sites=("q",))):
        probed = probed_hidden(model, batch, **arguments)[is_token]
        assert torch.equal(probed, plain)
        assert torch.equal(*map(model.get_output_embeddings(), (probed, plain)))


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_a_model_with_a_fused_probe_computes_the_same_to_rounding(name):
    model, batch = tiny_model(name), tiny_batch()
    plain, probed = last_hidden(model, batch), probed_hidden(model, batch, fused=True)
    valid = batch["attention_mask"].bool()
    # The hidden product is rounded differently in two layers; the large attention scores of qwen2 amplify this.
    assert (probed - plain)[valid].abs().max() < (1e-4 if name == "qwen2" else 1e-5) * plain[valid].abs().max()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_importance_leaves_the_model_untouched(name, attention):
    model = set_attention(tiny_model(name), attention)
    before = snapshot(model)
    assert before["attention"] == attention
    pml.importance(model, **tiny_batch())
    pml.importance(model, **tiny_batch(), score="released")
    assert_untouched(model, before)


@pytest.mark.parametrize("arguments", [dict(), dict(fused=True), dict(score="released")], ids=str)
def test_an_exception_inside_leaves_the_model_untouched(arguments):
    model = tiny_model("gemma3_text")
    before = snapshot(model)
    broken = mock.patch.object(model.model.layers[1].mlp.down_proj, "forward", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), ImportanceProbe(model, **arguments) as probe, broken:
        probe.measure(**tiny_batch())
    assert_untouched(model, before)
    result, fresh = pml.importance(model, **tiny_batch()), pml.importance(tiny_model("gemma3_text"), **tiny_batch())
    assert all(torch.equal(result[site], fresh[site]) for site in pml.SITES)


def test_a_failed_batch_does_not_change_the_next():
    for name in ("qwen3", "gemma3_text"):
        model, batch = tiny_model(name), tiny_batch()
        with ImportanceProbe(model) as probe:
            for module in (model.model.layers[0].self_attn.o_proj, model.model.layers[1].mlp.up_proj):
                broken = mock.patch.object(module, "forward", side_effect=RuntimeError)
                with broken, pytest.raises(RuntimeError):
                    probe.measure(**tiny_batch((5, 4)))
            result = probe.measure(**batch)
        fresh = pml.importance(model, **batch)
        assert all(torch.equal(result[site], fresh[site]) for site in pml.SITES), name


def test_hooks_and_a_forward_that_were_there_before_stay():
    model, calls = tiny_model("llama"), []
    mlp, forward = model.model.layers[0].mlp, model.model.layers[0].mlp.forward
    mlp.forward = forward
    handle = model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda *_: calls.append(1))
    pml.importance(model, **tiny_batch(), score="released", verify=False)
    assert vars(mlp)["forward"] is forward and calls == [1]
    pml.importance(model, **tiny_batch(), score="released")  # it is verified, which runs the hook too
    assert vars(mlp)["forward"] is forward and len(calls) > 2
    handle.remove()


def test_a_probe_measures_several_batches():
    model = tiny_model("qwen3")
    batches = [tiny_batch(lengths, seed=seed) for seed, lengths in enumerate([(11, 7), (3,), (5, 5, 2)])]
    with ImportanceProbe(model) as probe:
        for batch in batches:
            result, alone = probe.measure(**batch), pml.importance(model, **batch)
            assert all(torch.equal(result[site], alone[site]) for site in pml.SITES)


def test_a_model_can_be_called_between_measurements():
    model, batch = tiny_model("llama"), tiny_batch()
    plain = last_hidden(model, batch)
    with ImportanceProbe(model, fused=True) as probe:
        first = probe.measure(**batch)
        called = last_hidden(model, tiny_batch((4, 2)))
        again = probe.measure(**batch)
    assert torch.equal(last_hidden(model, batch), plain) and called.shape[1] == 4
    assert all(torch.equal(first[site], again[site]) for site in pml.SITES)


def test_nested_probes_do_not_affect_each_other():
    model, batch, inner_batch = tiny_model("qwen3"), tiny_batch(), tiny_batch((4, 2))
    with ImportanceProbe(model, fused=True) as outer:
        before = outer.measure(**batch)
        with ImportanceProbe(model, rope="post") as inner:
            inner.measure(**inner_batch)
            after = outer.measure(**batch)
    assert all(torch.equal(before[site], after[site]) for site in pml.SITES)


def test_weights_may_change_between_blocks():
    model, batch = tiny_model("llama"), tiny_batch()
    probe = ImportanceProbe(model)
    with probe:
        before = probe.measure(**batch)["ffn"][:, 1]
    model.model.layers[1].mlp.down_proj.weight.data.mul_(2)
    with probe:
        after = probe.measure(**batch)["ffn"][:, 1]
    assert torch.equal(after, 4 * before)


def test_probes_of_two_models_do_not_affect_each_other():
    models, batch = (tiny_model("llama"), tiny_model("llama", seed=1)), tiny_batch()
    apart = [pml.importance(model, **batch) for model in models]
    with ImportanceProbe(models[0]) as first, ImportanceProbe(models[1]) as second:
        together = [first.measure(**batch), second.measure(**batch)]
    for a, b in zip(apart, together):
        assert all(torch.equal(a[site], b[site]) for site in pml.SITES)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_importance_of_a_deactivated_model_is_that_of_the_zeroed_model(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch()
    neurons = random_neurons(model)
    truth = importance_in_float64(with_zeroed_neurons(model, neurons), **batch)
    with pml.deactivate(model, neurons):
        result = importance_in_float64(model, **batch)
    with ImportanceProbe(model) as probe, pml.deactivate(model, neurons), float64_throughout(model):
        inside = probe.measure(**batch)
    assert all(torch.equal(result[site], inside[site]) for site in pml.SITES)
    for site, mask in neurons.sites.items():
        assert largest_error(result[site], truth[site]) < 1e-9, site
        assert not result[site][:, mask].any(), site
