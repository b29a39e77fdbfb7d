"""pml.train_only refuses weights whose training would be lost, or would change what was not to be trained."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrization(model):
    parametrize.register_parametrization(model.model.layers[1].mlp.up_proj, "weight", Doubled())
    return "model.layers.1.mlp.up_proj computes its weight"


def weight_norm(model):
    nn.utils.parametrizations.weight_norm(model.model.layers[1].mlp.down_proj)
    return "model.layers.1.mlp.down_proj computes its weight"


def hook_of_weight_norm(model):
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.model.layers[0].self_attn.o_proj)
    return "model.layers.0.self_attn.o_proj computes its weight"


def pruning(model):
    prune.l1_unstructured(model.model.layers[0].self_attn.q_proj, "bias", amount=0.5)
    return "model.layers.0.self_attn.q_proj computes its bias"


def one_parameter(model):
    mlp = model.model.layers[0].mlp
    mlp.gate_proj.weight = mlp.up_proj.weight
    return "model.layers.0.mlp.gate_proj shares its weight with model.layers.0.mlp.up_proj.weight"


def part_of_a_fused_weight(model):
    mlp = model.model.layers[0].mlp
    mlp.fused = nn.Linear(mlp.up_proj.in_features, 2 * mlp.up_proj.out_features, bias=False)
    mlp.up_proj.weight = nn.Parameter(mlp.fused.weight.data[mlp.up_proj.out_features :])
    return "model.layers.0.mlp.up_proj shares its weight with model.layers.0.mlp.fused.weight"


def one_module(model):
    model.model.layers[1].self_attn.k_proj = model.model.layers[0].self_attn.k_proj
    return "layers 0 and 1 share model.layers.0.self_attn.k_proj"


def forward_without_modules(model):
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: mlp.down_proj(
        F.silu(F.linear(x, mlp.gate_proj.weight, mlp.gate_proj.bias)) * mlp.up_proj(x)
    )
    return "does not call model.layers.1.mlp.gate_proj"


CHANGES = (
    parametrization, weight_norm, hook_of_weight_norm, pruning, one_parameter, part_of_a_fused_weight, one_module,
    forward_without_modules,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_is_refused_before_anything_is_changed(change):
    model = tiny_model("llama")
    neurons, message = random_neurons(model), change(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(pml.UnsupportedModel, match=re.escape(message)):
        pml.train_only(model, neurons)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert before.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]


@pytest.mark.parametrize("change", [parametrization, one_parameter])
def test_what_the_message_advises_makes_it_trainable(change):
    model = tiny_model("llama")
    change(model)
    if change is parametrization:
        parametrize.remove_parametrizations(model.model.layers[1].mlp.up_proj, "weight")
    else:
        gate = model.model.layers[0].mlp.gate_proj
        gate.weight = nn.Parameter(gate.weight.detach().clone())
    batch, neurons = tiny_batch(), random_neurons(model)
    with pml.train_only(model, neurons) as trained:
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
        during = model(**batch).logits
        trained.merge()
    torch.testing.assert_close(model(**batch).logits, during)


def test_a_model_that_was_verified_is_not_run_again():
    model, calls = tiny_model("llama"), []
    model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    pml.train_only(model, random_neurons(model)).remove()
    assert calls
    calls.clear()
    pml.train_only(model, random_neurons(model)).remove()
    assert not calls


def test_sharing_elsewhere_is_no_obstacle():
    """Tied embeddings, and a parametrization of a layer without neurons of the set."""
    model = tiny_model("llama", tie_word_embeddings=True)
    parametrization(model)
    with pml.train_only(model, random_neurons(model).layers(0, 1)):
        pass


def test_weights_side_by_side_in_one_storage_are_no_obstacle():
    model = tiny_model("llama")
    mlp = model.model.layers[0].mlp
    storage = torch.cat([mlp.gate_proj.weight.data, mlp.up_proj.weight.data])
    mlp.gate_proj.weight, mlp.up_proj.weight = (nn.Parameter(half) for half in storage.chunk(2))
    expected = copy.deepcopy(storage)
    with pml.train_only(model, random_neurons(model)):
        pass
    assert torch.equal(storage, expected)


def test_a_model_that_is_marked_as_quantised_names_how_to_remove_the_mark():
    """transformers marks models that it loads from GGUF files, and neither trains nor saves them."""
    model = tiny_model("llama")
    model.is_quantized, model.hf_quantizer, model.config.quantization_config = True, object(), object()
    message = r"call `(del model.hf_quantizer, model.is_quantized, model.config.quantization_config)` first"
    with pytest.raises(pml.UnsupportedModel, match=message) as error:
        pml.train_only(model, random_neurons(model))
    exec(re.search(message, str(error.value))[1])
    pml.train_only(model, random_neurons(model)).remove()
