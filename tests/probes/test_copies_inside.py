"""Copies, pickles and saves of a model that are made inside a block: the model as it was, or a refusal."""

import copy
import io
import pickle

import pytest
import torch
import transformers

import pymultiling as pml
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

NAMES = ("llama", "opt", "mixtral")  # mixtral's experts get another forward in the place of hooks
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "deepcopy of the base model": lambda model: copy.deepcopy(model.base_model),
    "pickle of a list": lambda model: pickle.dumps([model]),
}


def blocks(model):
    neurons = random_neurons(model)
    return [
        pml.deactivate(model, neurons),
        pml.deactivate(model, random_neurons(model, sites=["ffn"])),
        pml.deactivate(model, [neurons, None]),
    ]


@pytest.mark.parametrize("copy_model", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", NAMES)
def test_copies_are_refused_in_one_sentence_and_possible_afterwards(name, copy_model):
    model = tiny_model(name)
    before = [sorted(vars(module)) for module in model.modules()]
    for block in blocks(model):
        with block, pytest.raises(ValueError, match="inside a block, such as that of deactivate"):
            copy_model(model)
    assert [sorted(vars(module)) for module in model.modules()] == before
    copy_model(model)


def test_a_block_that_changes_only_generate_refuses_too():
    model = tiny_model("llama")
    with pml.deactivate(model, [None]), pytest.raises(ValueError, match="inside a block"):
        pickle.dumps(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_made_afterwards_computes_as_the_model(name):
    model, batch = tiny_model(name), tiny_batch()
    with pml.deactivate(model, random_neurons(model)):
        model(**batch)
    assert torch.equal(pickle.loads(pickle.dumps(model))(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_are_those_of_the_model(name, tmp_path):
    model = tiny_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pml.deactivate(model, [random_neurons(model), None]):
        model.save_pretrained(tmp_path)
        state = model.state_dict()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    assert before.keys() == state.keys() == loaded.keys()
    assert all(torch.equal(state[key], value) and torch.equal(loaded[key], value) for key, value in before.items())
