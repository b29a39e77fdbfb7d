"""Evaluation mode for the length of a block: afterwards the model is bit for bit what it was."""

import copy

import pytest
import torch
from torch import nn

import pymultiling as pml
from pymultiling.models.modes import evaluation_mode, preserve_modes
from tests.support.lora import with_merging_lora
from tests.support.tiny_models import tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer


def modes(model) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def lora_layers(model) -> list:
    return [layer.mlp.up_proj for layer in model.model.layers]


def assert_unchanged(model, before) -> None:
    """Compares all tensors bit for bit, the modes, and what the LoRA layers note about their weight."""
    assert modes(model) == modes(before)
    assert [layer.merged for layer in lora_layers(model)] == [layer.merged for layer in lora_layers(before)]
    for (name, tensor), (_, expected) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(tensor, expected), name


def test_every_module_gets_its_mode_back():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    model.model.layers[0].mlp.train()
    before = modes(model)
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert modes(model) == before


@pytest.mark.parametrize("switch", ["all in training", "one in evaluation", "one unmerged in evaluation"])
def test_lora_layers_merge_inside_and_are_what_they_were_afterwards(switch):
    """A layer that was put into evaluation mode without its `train` stays unmerged, as it was."""
    model = with_merging_lora(tiny_model("llama"))
    if switch == "one in evaluation":
        model.model.layers[1].eval()
    elif switch == "one unmerged in evaluation":
        lora_layers(model)[1].training = False
    before = copy.deepcopy(model)
    with evaluation_mode(model):
        assert all(layer.merged for layer in lora_layers(model))
    assert_unchanged(model, before)


def test_subtracting_what_was_merged_would_not_give_the_same_bits():
    """Without this, the tests of equal bits could not fail."""
    model = with_merging_lora(tiny_model("llama"))
    before = copy.deepcopy(model)
    model.eval()
    model.train()
    assert any(not torch.equal(a.weight, b.weight) for a, b in zip(lora_layers(model), lora_layers(before)))


def test_parameters_that_a_layer_replaces_are_back():
    class Replacing(nn.Linear):
        def train(self, mode=True):
            self.weight = nn.Parameter(self.weight.detach() + 1)
            return super().train(mode)

    layer = Replacing(3, 2)
    weight, values = layer.weight, layer.weight.detach().clone()
    with evaluation_mode(layer):
        assert layer.weight is not weight
    assert layer.weight is weight and torch.equal(weight, values)


def test_preserved_modes_keep_what_was_trained():
    """A run of training between: the mode is restored, the weights are not."""
    model = with_merging_lora(tiny_model("llama")).eval()
    with preserve_modes(model):
        model.train()
        with torch.no_grad():
            lora_layers(model)[0].lora_b += 1
        expected = copy.deepcopy(model).eval()
    assert_unchanged(model, expected)


def importance(model) -> None:
    pml.importance(model, **tiny_batch())


def activations(model) -> None:
    pml.activations(model, tiny_tokenizer(), {"fr": texts("fr")})


def mean_activations(model) -> None:
    pml.mean_activations(model, tiny_tokenizer(), texts("fr"))


@pytest.mark.parametrize("measure", [importance, activations, mean_activations])
def test_training_goes_on_after_a_measurement_between_forward_and_backward(measure):
    model = with_merging_lora(tiny_model("llama"))
    before, batch = copy.deepcopy(model), tiny_batch()
    losses = [m(**batch, labels=batch["input_ids"]).loss for m in (model, before)]
    measure(model)
    assert_unchanged(model, before)
    for loss in losses:
        loss.backward()
    for (name, parameter), (_, expected) in zip(model.named_parameters(), before.named_parameters()):
        assert torch.equal(parameter.grad, expected.grad), name
