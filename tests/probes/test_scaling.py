"""pml.deactivate with a scale or a mean, against scaled parameters and against activations that hooks replace."""

import copy
from contextlib import ExitStack
from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.neuron_changes import find_changed_modules
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import routed_gate_and_up, weight_of
from tests.support.tiny_models import REPRESENTATIVE_MODELS, random_neurons, tiny_batch, tiny_model


def with_scaled_neurons(model, neurons: pml.NeuronSet, scale: float):
    """Returns a copy of the model with scaled columns of down and o_proj, and scaled rows and biases of q, k and v."""
    model = copy.deepcopy(model)
    for number, layer in enumerate(Decoder(model).layers):
        if layer.experts is not None:
            columns = layer.experts.module.down_proj.data.mT
            columns[neurons.sites["ffn"][number].view(columns.shape[:2])] *= scale
        for module, on_input, indices, _ in find_changed_modules(layer):
            weight = weight_of(module).data.T if on_input else weight_of(module).data
            for site, index in indices.items():
                chosen = torch.arange(len(weight))[index][neurons.sites[site][number]]
                weight[chosen] *= scale
                if not on_input and module.bias is not None:
                    module.bias.data[chosen] *= scale
    return model


@pytest.mark.parametrize("scale", [2.0, -0.5])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_scaled_activations_are_scaled_parameters(name, scale):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    scaled_model = with_scaled_neurons(model, neurons, scale)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), scaled_model.parameters()))
    truth = logits(scaled_model, batch)
    assert difference(logits(model, batch), truth) > 1e-3
    with pml.deactivate(model, neurons, scale=scale):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]


def random_mean(model) -> dict[str, torch.Tensor]:
    """Returns {site: (layers, neurons)}, random values to set neurons to."""
    generator = torch.Generator().manual_seed(0)
    return {site: torch.randn(mask.shape, generator=generator) for site, mask in random_neurons(model).sites.items()}


def logits_with_replaced(model, neurons: pml.NeuronSet, mean: dict[str, torch.Tensor], batch: dict) -> torch.Tensor:
    """Returns logits; hooks loop over the neurons and set them to their mean."""

    def set_to_mean(x, number, indices):
        for site, index in indices.items():
            for n in neurons.sites[site][number].nonzero().flatten().tolist():
                x[..., torch.arange(x.shape[-1])[index][n]] = mean[site][number, n]
        return x

    def patch_experts(number, experts):
        """Runs all experts for all tokens; those that the router did not choose get a weight of zero."""

        def forward(states, chosen, weights):
            gate, up = routed_gate_and_up(experts, states, chosen, 0.0)
            hidden = set_to_mean(experts.act_fn(gate) * up, number, {"ffn": slice(None)})
            all_weights = states.new_zeros(len(states), len(experts.down_proj)).scatter(1, chosen, weights.to(states))
            hidden = hidden.unflatten(1, (len(experts.down_proj), -1)) * all_weights[..., None]
            return torch.einsum("tei,edi->td", hidden, experts.down_proj)

        return mock.patch.object(experts, "forward", forward)

    def input_hook(number, indices):
        return lambda _, args: (set_to_mean(args[0].clone(), number, indices),)

    def output_hook(number, indices):
        return lambda _, args, output: set_to_mean(output.clone(), number, indices)

    with ExitStack() as stack:
        for number, layer in enumerate(Decoder(model).layers):
            if layer.experts is not None:
                stack.enter_context(patch_experts(number, layer.experts.module))
            for module, on_input, indices, _ in find_changed_modules(layer):
                if on_input:
                    hook = module.register_forward_pre_hook(input_hook(number, indices))
                else:
                    hook = module.register_forward_hook(output_hook(number, indices))
                stack.callback(hook.remove)
        return logits(model, batch)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_neurons_are_set_to_their_mean(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    a, b, mean = random_neurons(model, seed=1), random_neurons(model, seed=2), random_mean(model)
    truth = logits_with_replaced(model, a, mean, batch)
    with pml.deactivate(model, a, mean=mean):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]
    truth_b = logits_with_replaced(model, b, mean, batch)
    with pml.deactivate(model, [b, a], mean=mean):
        result = model(**batch).logits
    assert difference(result[0], truth_b[:9]) < TOLERANCE[torch.float64]
    assert difference(result[1], truth[9:]) < TOLERANCE[torch.float64]


def test_a_mean_is_needed_only_for_the_sites_of_the_set():
    model, batch, mean = tiny_model("llama"), tiny_batch(), random_mean(tiny_model("llama"))
    with pml.deactivate(model, random_neurons(model, sites=["ffn"]), mean={"ffn": mean["ffn"]}):
        logits(model, batch)
    with (
        pytest.raises(ValueError, match="no values of site k"),
        pml.deactivate(model, random_neurons(model, sites=["k"]), mean={"ffn": mean["ffn"]}),
    ):
        pytest.fail("the block was entered")


def test_a_mean_of_another_model_and_a_mean_with_a_scale_are_refused():
    model, mean = tiny_model("llama"), random_mean(tiny_model("llama", intermediate_size=41))
    for arguments, message in (
        (dict(mean=mean), "mean is of another model"),
        (dict(mean=mean, scale=2.0), "not both"),
    ):
        with pytest.raises(ValueError, match=message), pml.deactivate(model, random_neurons(model), **arguments):
            pytest.fail("the block was entered")


def test_gradients_of_the_embeddings_under_a_scale_are_those_of_scaled_parameters():
    model, batch = tiny_model("llama", torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    truth = with_scaled_neurons(model, neurons, 2.0)
    truth(**batch, labels=batch["input_ids"]).loss.backward()
    with pml.deactivate(model, neurons, scale=2.0):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    gradient = model.model.embed_tokens.weight.grad
    assert difference(gradient, truth.model.embed_tokens.weight.grad) < 1e-8


def test_a_module_with_hooks_has_a_forward_of_its_own_that_compiled_code_notices():
    model = tiny_model("llama")
    with Hooks() as hooks:
        hooks.before(model.lm_head, lambda *_: None)
        hooks.after(model.lm_head, lambda *_: None)
        assert "forward" in vars(model.lm_head)
        with Hooks() as inner:
            inner.before(model.lm_head, lambda *_: None)
        assert "forward" in vars(model.lm_head)
    assert "forward" not in vars(model.lm_head)


@pytest.mark.parametrize("change", [dict(), dict(scale=2.0), dict(mean=True)], ids=str)
def test_masks_work_under_autocast(change):
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    neurons, change = random_neurons(model), dict(change)
    if "mean" in change:
        change["mean"] = random_mean(model)
    with pml.deactivate(model, neurons, **change):
        truth = logits(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            assert difference(logits(model, batch).float(), truth) < 0.1


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_forward_derivatives_are_those_of_the_zeroed_model(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    model.set_attn_implementation("eager")
    neurons = random_neurons(model)
    embedded = model.model.embed_tokens(batch["input_ids"]).detach()
    direction = torch.randn(embedded.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward_of(any_model):
        return lambda x: any_model(inputs_embeds=x, use_cache=False).logits

    zeroed_model = with_scaled_neurons(model, neurons, 0.0)
    value, truth = torch.func.jvp(forward_of(zeroed_model), (embedded,), (direction,))
    with pml.deactivate(model, neurons):
        result, tangent = torch.func.jvp(forward_of(model), (embedded,), (direction,))
    assert difference(result, value) < 1e-10 and difference(tangent, truth) < 1e-10


def test_tensors_that_other_hooks_keep_are_not_overwritten():
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    neurons, captured = random_neurons(model), []
    projection, down = model.model.layers[0].self_attn.q_proj, model.model.layers[0].mlp.down_proj
    with pml.deactivate(model, neurons):
        truth = logits(model, batch)
    handles = [
        projection.register_forward_hook(lambda _, args, output: captured.append(output)),
        down.register_forward_pre_hook(lambda _, args: captured.append(args[0])),
    ]
    logits(model, batch)
    with pml.deactivate(model, neurons, verify=False):
        assert torch.equal(logits(model, batch), truth)
    for handle in handles:
        handle.remove()
    q, _, q_inside, hidden = captured
    assert torch.equal(q, q_inside) and hidden.ne(0).all()


def test_values_that_are_no_sets_and_a_scale_of_nan_are_refused():
    model = tiny_model("llama")
    neurons = random_neurons(model)
    for wrong, options, message in (
        ({"fr": neurons}, {}, "list of some"),
        ([], {}, "list of some"),
        (neurons, dict(scale=float("nan")), "finite number"),
    ):
        with pytest.raises(ValueError, match=message), pml.deactivate(model, wrong, **options):
            pytest.fail("the block was entered")
