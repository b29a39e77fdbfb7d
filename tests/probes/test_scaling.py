"""pml.deactivate with a scale, and with means: against parameters scaled by hand, and activations replaced by hand."""

import copy
from contextlib import ExitStack
from unittest import mock

import pytest
import torch

import pymultiling as pml
from pymultiling.models.decoder import Decoder
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.masking import change_points
from tests.probes.test_masking import TOLERANCE, difference, logits
from tests.support.anatomy import routed_gate_and_up, weight_of
from tests.support.tiny_models import REPRESENTATIVE_MODELS, random_neurons, tiny_batch, tiny_model


def scaled(model, neurons: pml.NeuronSet, scale: float):
    """A copy of the model: columns of down and o_proj, rows and biases of q, k and v times `scale`."""
    model = copy.deepcopy(model)
    for index, layer in enumerate(Decoder(model).layers):
        if layer.experts is not None:
            columns = layer.experts.module.down_proj.data.mT
            columns[neurons.sites["ffn"][index].view(columns.shape[:2])] *= scale
        for module, on_input, parts in change_points(layer):
            weight = weight_of(module).data.T if on_input else weight_of(module).data
            for site, part in parts.items():
                chosen = torch.arange(len(weight))[part][neurons.sites[site][index]]
                weight[chosen] *= scale
                if not on_input and module.bias is not None:
                    module.bias.data[chosen] *= scale
    return model


@pytest.mark.parametrize("scale", [2.0, -0.5])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_scaled_activations_are_scaled_parameters(name, scale):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    parameters = scaled(model, neurons, scale)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), parameters.parameters()))
    truth = logits(parameters, batch)
    assert difference(logits(model, batch), truth) > 1e-3
    with pml.deactivate(model, neurons, scale=scale):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]


def some_mean(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {site: torch.randn(mask.shape, generator=generator) for site, mask in random_neurons(model).sites.items()}


def replaced(model, neurons: pml.NeuronSet, mean: dict[str, torch.Tensor], batch: dict) -> torch.Tensor:
    """Logits with a loop over the neurons in hooks."""

    def put(x, index, parts):
        for site, part in parts.items():
            for n in neurons.sites[site][index].nonzero().flatten().tolist():
                x[..., torch.arange(x.shape[-1])[part][n]] = mean[site][index, n]
        return x

    def experts_with(index, experts):
        """All experts for all tokens, with a weight of zero for those that the router did not choose."""

        def forward(states, chosen, weights):
            gate, up = routed_gate_and_up(experts, states, chosen, 0.0)
            hidden = put(experts.act_fn(gate) * up, index, {"ffn": slice(None)})
            of_token = states.new_zeros(len(states), len(experts.down_proj)).scatter(1, chosen, weights.to(states))
            hidden = hidden.unflatten(1, (len(experts.down_proj), -1)) * of_token[..., None]
            return torch.einsum("tei,edi->td", hidden, experts.down_proj)

        return mock.patch.object(experts, "forward", forward)

    with ExitStack() as stack:
        for index, layer in enumerate(Decoder(model).layers):
            if layer.experts is not None:
                stack.enter_context(experts_with(index, layer.experts.module))
            for module, on_input, parts in change_points(layer):
                at = dict(index=index, parts=parts)
                if on_input:
                    hook = module.register_forward_pre_hook(lambda _, args, at=at: (put(args[0].clone(), **at),))
                else:
                    hook = module.register_forward_hook(lambda _, args, out, at=at: put(out.clone(), **at))
                stack.callback(hook.remove)
        return logits(model, batch)


@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_neurons_at_their_mean(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    a, b, mean = random_neurons(model, seed=1), random_neurons(model, seed=2), some_mean(model)
    truth = replaced(model, a, mean, batch)
    with pml.deactivate(model, a, mean=mean):
        assert difference(logits(model, batch), truth) < TOLERANCE[torch.float64]
    other = replaced(model, b, mean, batch)
    with pml.deactivate(model, [b, a], mean=mean):
        found = model(**batch).logits
    assert difference(found[0], other[:9]) < TOLERANCE[torch.float64]
    assert difference(found[1], truth[9:]) < TOLERANCE[torch.float64]


def test_a_mean_of_some_sites_is_enough_for_sets_of_these():
    model, batch, mean = tiny_model("llama"), tiny_batch(), some_mean(tiny_model("llama"))
    with pml.deactivate(model, random_neurons(model, sites=["ffn"]), mean={"ffn": mean["ffn"]}):
        logits(model, batch)
    with (
        pytest.raises(ValueError, match="no values of site k"),
        pml.deactivate(model, random_neurons(model, sites=["k"]), mean={"ffn": mean["ffn"]}),
    ):
        pytest.fail("the block was entered")


def test_a_mean_of_another_model_and_a_mean_with_a_scale():
    model, mean = tiny_model("llama"), some_mean(tiny_model("llama", intermediate_size=41))
    for arguments, sentence in (
        (dict(mean=mean), "mean is of another model"),
        (dict(mean=mean, scale=2.0), "not both"),
    ):
        with pytest.raises(ValueError, match=sentence), pml.deactivate(model, random_neurons(model), **arguments):
            pytest.fail("the block was entered")


def test_gradients_of_scaled_neurons_are_those_of_scaled_parameters():
    model, batch = tiny_model("llama", torch.float64), tiny_batch((9, 9))
    neurons = random_neurons(model)
    other = scaled(model, neurons, 2.0)
    other(**batch, labels=batch["input_ids"]).loss.backward()
    with pml.deactivate(model, neurons, scale=2.0):
        model(**batch, labels=batch["input_ids"]).loss.backward()
    own = model.model.embed_tokens.weight.grad
    assert difference(own, other.model.embed_tokens.weight.grad) < 1e-8


def test_hooks_that_compiled_code_does_not_know_are_noticed():
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
def test_under_autocast(change):
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    neurons, change = random_neurons(model), dict(change)
    if "mean" in change:
        change["mean"] = some_mean(model)
    with pml.deactivate(model, neurons, **change):
        truth = logits(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            assert difference(logits(model, batch).float(), truth) < 0.1


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_forward_derivatives_and_vectorised_calls(name):
    model, batch = tiny_model(name, torch.float64), tiny_batch((9, 9))
    model.set_attn_implementation("eager")
    neurons = random_neurons(model)
    embedded = model.model.embed_tokens(batch["input_ids"]).detach()
    direction = torch.randn(embedded.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(other):
        return lambda x: other(inputs_embeds=x, use_cache=False).logits

    parameters = scaled(model, neurons, 0.0)
    value, truth = torch.func.jvp(run(parameters), (embedded,), (direction,))
    with pml.deactivate(model, neurons):
        found, tangent = torch.func.jvp(run(model), (embedded,), (direction,))
    assert difference(found, value) < 1e-10 and difference(tangent, truth) < 1e-10


def test_what_somebody_elses_hook_has_kept_is_not_written_into():
    model, batch = tiny_model("llama"), tiny_batch((9, 9))
    neurons, kept = random_neurons(model), []
    projection, down = model.model.layers[0].self_attn.q_proj, model.model.layers[0].mlp.down_proj
    with pml.deactivate(model, neurons):
        truth = logits(model, batch)
    handles = [
        projection.register_forward_hook(lambda _, args, output: kept.append(output)),
        down.register_forward_pre_hook(lambda _, args: kept.append(args[0])),
    ]
    logits(model, batch)
    with pml.deactivate(model, neurons):
        assert torch.equal(logits(model, batch), truth)
    for handle in handles:
        handle.remove()
    q, _, q_inside, hidden = kept
    assert torch.equal(q, q_inside) and hidden.ne(0).all()


def test_what_is_no_set():
    model = tiny_model("llama")
    neurons = random_neurons(model)
    for wrong, options, sentence in (
        ({"fr": neurons}, {}, "list of some"),
        ([], {}, "list of some"),
        (neurons, dict(scale=float("nan")), "finite number"),
    ):
        with pytest.raises(ValueError, match=sentence), pml.deactivate(model, wrong, **options):
            pytest.fail("the block was entered")
