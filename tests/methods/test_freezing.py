"""pml.freeze against the names of the parameters."""

import copy

import pytest
import torch

import pymultiling as pml
from pymultiling.methods.freezing import freeze
from pymultiling.methods.tuning import train_only
from tests.support.anatomy import module_name
from tests.support.tiny_models import REPRESENTATIVE_MODELS, random_neurons, tiny_batch, tiny_model, unknown_model


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("embeddings", [True, False])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("name", REPRESENTATIVE_MODELS)
def test_exactly_the_requested_parts_are_frozen(name, embeddings, head):
    types = {"layer_types": ["sliding_attention"] * 4} if name == "gemma3_text" else {}
    model = tiny_model(name, num_hidden_layers=4, **types)
    all_names = trainable(model)
    prefix, names = model.base_model_prefix, {module: name for name, module in model.named_modules()}
    layers, embedding = f"{prefix}.{module_name(model.config, 'layers')}", names[model.get_input_embeddings()]
    last = names[model.get_output_embeddings()]
    parts = (f"{layers}.0.", f"{layers}.2.") + (f"{embedding}.",) * embeddings + (f"{last}.",) * head
    frozen = freeze(model, [0, 2], embeddings=embeddings, head=head)
    assert set(frozen) == {name for name in all_names if name.startswith(parts)}
    assert trainable(model) == all_names - set(frozen)
    assert f"{prefix}.{module_name(model.config, 'norm')}.weight" in trainable(model)
    for parameter in frozen:
        model.get_parameter(parameter).requires_grad_(True)
    assert trainable(model) == all_names


def test_the_first_eight_layers_are_frozen_by_default():
    model = tiny_model("llama", num_hidden_layers=10)
    frozen = freeze(model)
    assert {int(name.split(".")[2]) for name in frozen if ".layers." in name} == set(range(8))
    assert {name.split(".")[2] for name in trainable(model) if ".layers." in name} == {"8", "9"}


def test_what_was_frozen_before_stays_frozen():
    model = tiny_model("llama")
    model.model.norm.requires_grad_(False)
    model.model.layers[0].mlp.requires_grad_(False)
    names = freeze(model, [0], embeddings=False, head=False)
    assert {"model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"} <= set(names)
    assert "model.norm.weight" not in names and not model.model.norm.weight.requires_grad


def test_tied_embeddings_and_head_are_frozen_together_or_not_at_all():
    model = tiny_model("llama", tie_word_embeddings=True)
    for options in (dict(embeddings=False), dict(head=False)):
        with pytest.raises(ValueError, match=r"one tensor .tied.: freeze both or neither"):
            freeze(model, [0], **options)
    assert len(trainable(model)) == len(list(model.parameters()))
    assert "model.embed_tokens.weight" not in freeze(model, [0], embeddings=False, head=False)
    assert "model.embed_tokens.weight" in freeze(model, [0])


def test_a_model_without_a_head_can_be_frozen():
    base = tiny_model("llama").model
    assert "embed_tokens.weight" in freeze(base, [1])
    assert {name.split(".")[0] for name in trainable(base)} == {"layers", "norm"}


@pytest.mark.parametrize("layers", [range(8), [-1], [0, 2]])
def test_layers_that_the_model_lacks_are_refused(layers):
    model = tiny_model("llama")
    with pytest.raises(ValueError, match=r"has no layer (2|-1): give layers from 0 to 1"):
        freeze(model, layers)
    assert len(trainable(model)) == len(list(model.parameters()))


def test_unknown_models_are_refused():
    with pytest.raises(pml.UnsupportedModel, match="no known family"):
        freeze(unknown_model(), [0])


def test_training_changes_only_what_is_not_frozen():
    model, batch = tiny_model("phi3"), tiny_batch()
    before, names = copy.deepcopy(model.state_dict()), freeze(model, [0])
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == trainable(model) and not moved & set(names)


def test_freezing_inside_train_only_freezes_the_neurons_of_its_layers():
    model = tiny_model("llama")
    freeze(model, [0])
    before = trainable(model)
    with train_only(model, random_neurons(model)):
        assert all("neuron_delta" in name for name in trainable(model))
        freeze(model, [0])  # only the trained neurons of later layers stay trainable
        assert trainable(model) and all("layers.1." in name for name in trainable(model))
    assert trainable(model) == before
