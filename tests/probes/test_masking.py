"""pml.deactivate against a copy of the model in which the parameters of the neurons are zero."""

import copy

import pytest
import torch

import pymultiling as pml
from tests.support.anatomy import (
    attention_of,
    experts_of,
    ffn_modules,
    layers_of,
    module_name,
    output_of,
    rows_of,
    sizes,
)
from tests.support.tiny_models import (
    MODELS,
    REPRESENTATIVE_MODELS,
    random_neurons,
    tiny_batch,
    tiny_model,
    unknown_model,
    with_zeroed_neurons,
)

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest logit


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    """Returns the logits of the valid tokens."""
    return model(**batch).logits[batch["attention_mask"].bool()]


@torch.no_grad()
def decoded(model, tokens: torch.Tensor) -> torch.Tensor:
    """Returns logits that are computed with a cache: the first four tokens at once, the others one by one."""
    output = model(tokens[:, :4], use_cache=True)
    logits_of_steps = [output.logits]
    for t in range(4, tokens.shape[1]):
        output = model(tokens[:, t : t + 1], past_key_values=output.past_key_values, use_cache=True)
        logits_of_steps.append(output.logits)
    return torch.cat(logits_of_steps, 1)


def footprint(model) -> list:
    """Returns the numbers of hooks of every module."""
    return [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("site", pml.SITES)
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_deactivated_neurons_are_zeroed_neurons_at_every_site(name, site, dtype):
    # All documents have one length, because transformers' eager attention gives NaN for padding in float64.
    model, batch = tiny_model(name, dtype), tiny_batch((9, 9))
    neurons = random_neurons(model, sites=[site])
    truth = logits(with_zeroed_neurons(model, neurons), batch)
    assert difference(logits(model, batch), truth) > 1e-3  # the set matters
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), truth) < TOLERANCE[dtype]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_deactivated_neurons_are_zeroed_neurons_at_all_sites_with_padding(name, padding):
    model, batch = tiny_model(name), tiny_batch(padding=padding)
    neurons = random_neurons(model)
    truth = logits(with_zeroed_neurons(model, neurons), batch)
    # key biases of +-300 make attention scores of several hundred, which amplify rounding
    tolerance = 1e-3 if name in ("qwen2", "llama-large-key-bias") else TOLERANCE[torch.float32]
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), truth) < tolerance


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_decoding_with_a_cache_is_that_of_the_zeroed_model(name):
    model, tokens = tiny_model(name, torch.float64), tiny_batch((9, 9))["input_ids"]
    neurons = random_neurons(model)
    truth = decoded(with_zeroed_neurons(model, neurons), tokens)
    with pml.deactivate(model, neurons):
        assert difference(decoded(model, tokens), truth) < TOLERANCE[torch.float64]


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_greedy_generation_is_that_of_the_zeroed_model(name):
    model, prompt = tiny_model(name), tiny_batch((5, 3), padding="left")
    neurons = random_neurons(model, 0.4)
    arguments = dict(max_new_tokens=7, do_sample=False)
    truth = with_zeroed_neurons(model, neurons).generate(**prompt, **arguments)
    with pml.deactivate(model, neurons):
        masked = model.generate(**prompt, **arguments)
    assert torch.equal(masked, truth)
    assert not torch.equal(model.generate(**prompt, **arguments), truth)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_weights_and_hooks_are_the_same_afterwards(name):
    model, batch = tiny_model(name), tiny_batch()
    weights, hooks, plain = copy.deepcopy(model.state_dict()), footprint(model), logits(model, batch)
    with pml.deactivate(model, random_neurons(model)) as inside:
        assert inside is model
        assert not torch.equal(logits(model, batch), plain)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert footprint(model) == hooks
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert torch.equal(logits(model, batch), plain)


def test_hooks_are_removed_after_an_exception():
    model, batch = tiny_model("phi3"), tiny_batch()
    hooks, plain = footprint(model), logits(model, batch)
    with pytest.raises(KeyboardInterrupt), pml.deactivate(model, random_neurons(model)):
        raise KeyboardInterrupt
    with pytest.raises(IndexError), pml.deactivate(model, random_neurons(model)):
        model(torch.full((1, 2), 10_000))
    assert footprint(model) == hooks and torch.equal(logits(model, batch), plain)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_nested_sets_are_a_union(name):
    model, batch = tiny_model(name), tiny_batch()
    a, b = random_neurons(model, seed=1), random_neurons(model, seed=2)
    plain = logits(model, batch)
    with pml.deactivate(model, a | b):
        union = logits(model, batch)
    with pml.deactivate(model, a):
        only_a = logits(model, batch)
        with pml.deactivate(model, b):
            assert torch.equal(logits(model, batch), union)
        assert torch.equal(logits(model, batch), only_a)
    assert torch.equal(logits(model, batch), plain)


def test_an_empty_set_changes_no_bit_and_a_full_set_is_the_zeroed_model():
    model, batch = tiny_model("qwen2"), tiny_batch()
    plain = logits(model, batch)
    empty = random_neurons(model) - random_neurons(model)
    with pytest.warns(UserWarning, match="the set has no neurons"), pml.deactivate(model, empty):
        assert torch.equal(logits(model, batch), plain)
    everything = pml.NeuronSet(
        {
            site: torch.ones(model.config.num_hidden_layers, width, dtype=torch.bool)
            for site, width in sizes(model.config).items()
        }
    )
    truth = logits(with_zeroed_neurons(model, everything), batch)
    with pml.deactivate(model, everything):
        assert torch.equal(logits(model, batch), truth)


def test_only_neurons_in_the_layers_of_the_set_are_deactivated():
    model, batch = tiny_model("llama", torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model).layers(1, 2)
    truth = logits(with_zeroed_neurons(model, neurons), batch)
    with pml.deactivate(model, neurons):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]


def gradient_of(linear) -> torch.Tensor:
    """Returns the weight's gradient as (outputs, inputs)."""
    return linear.weight.grad.T if type(linear).__name__ == "Conv1D" else linear.weight.grad


def ffn_gradients(layer, config) -> list[torch.Tensor]:
    """Returns (neurons, hidden size) each: the gradients of gate's and up's rows, and of down's columns."""
    experts = experts_of(layer)
    if experts is not None:
        gate, up = experts.gate_up_proj.grad.chunk(2, 1)
        return [gate.flatten(0, 1), up.flatten(0, 1), experts.down_proj.grad.mT.flatten(0, 1)]
    gate, up, down = ffn_modules(layer)
    if config.model_type == "phi3":
        return [*gradient_of(gate).chunk(2), gradient_of(down).T]
    return [gradient_of(gate), gradient_of(up), gradient_of(down).T]


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_gradients_flow_as_in_the_zeroed_model_and_are_zero_for_neurons_that_are_off(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    truth = with_zeroed_neurons(model, neurons)
    truth(**batch, labels=batch["input_ids"]).loss.backward()
    with pml.deactivate(model, neurons):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    for (module, masked), (_, zeroed) in zip(model.named_parameters(), truth.named_parameters()):
        if any(part in module for part in ("norm", "ln_", "embed", "wte", "lm_head")):
            assert difference(masked.grad, zeroed.grad) < 1e-8, module

    width = sizes(model.config)
    for index, layer in enumerate(layers_of(model)):
        off = {site: mask[index] for site, mask in neurons.sites.items()}
        attention, config = attention_of(layer, model.config), model.config
        pieces = [(gradient, off["ffn"]) for gradient in ffn_gradients(layer, config)]
        pieces += [(gradient_of(output_of(layer, config)).T, off["o"])]
        for site in ("q", "k", "v"):
            linear = getattr(attention, module_name(config, "qkv") or f"{site}_proj")
            rows = slice(None) if rows_of(config, site) is None else rows_of(config, site)
            pieces += [(gradient_of(linear)[rows], off[site])]
            pieces += [(linear.bias.grad[rows, None], off[site])] if linear.bias is not None else []
        for gradient, mask in pieces:
            assert gradient.shape[0] == mask.shape[0]
            assert not gradient[mask].any() and gradient[~mask].any()
    assert sum(width.values()) == sum(mask.shape[1] for mask in neurons.sites.values())


def test_a_training_step_leaves_neurons_that_are_off_where_they_were():
    model, batch = tiny_model("llama"), tiny_batch()
    neurons = random_neurons(model)
    before = [layer.mlp.up_proj.weight.detach().clone() for layer in model.model.layers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pml.deactivate(model, neurons):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
    for index, layer in enumerate(model.model.layers):
        has_moved = (layer.mlp.up_proj.weight != before[index]).any(1)
        off = neurons.sites["ffn"][index]
        assert not has_moved[off].any() and has_moved[~off].any()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(intermediate_size=41), "ffn is 2 layers x 41 neurons, this model's 2 x 37"),
        (dict(num_hidden_layers=3), "3 layers x 37 neurons, this model's 2 x 37"),
        (dict(num_key_value_heads=4), "k is 2 layers x 48 neurons, this model's 2 x 24"),
    ],
    ids=str,
)
def test_a_set_of_another_model_is_refused(changes, message):
    model = tiny_model("llama")
    hooks = footprint(model)
    neurons = random_neurons(tiny_model("llama", **changes))
    with pytest.raises(ValueError, match=f"another model: .*{message}"), pml.deactivate(model, neurons):
        pytest.fail("the block was entered")
    assert footprint(model) == hooks


def test_an_unknown_family_is_refused():
    model = unknown_model()
    neurons = random_neurons(tiny_model("llama"))
    with pytest.raises(pml.UnsupportedModel, match="looked for one of llama"), pml.deactivate(model, neurons):
        pass


def test_weights_that_are_not_in_memory_are_refused():
    with torch.device("meta"):
        model = tiny_model("llama").to("meta")
    with (
        pytest.raises(pml.UnsupportedModel, match="offloaded"),
        pml.deactivate(model, random_neurons(tiny_model("llama"))),
    ):
        pass
