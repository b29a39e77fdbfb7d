"""Compiled models, base models and models inside PEFT's wrappers give what the model that is not compiled gives."""

import copy

import peft
import pytest
import torch
import transformers

import pymultiling as pml
from tests.support.adapters import adapted_model
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model
from tests.support.tiny_text import texts, tiny_tokenizer

MODELS = {
    "a language model": lambda: tiny_model("llama"),
    "a classifier": lambda: transformers.LlamaForSequenceClassification(tiny_model("llama").config).eval(),
    "LoRA": lambda: adapted_model("LoRA", "llama", torch.float32).eval(),
    "LNTuning": lambda: adapted_model("LNTuning", "llama", torch.float32).eval(),
    "a copy of some modules": lambda: adapted_model("a copy of some modules", "llama", torch.float32).eval(),
    "prompt tuning": lambda: _with_prompt(peft.PromptTuningConfig),
    "prefix tuning": lambda: _with_prompt(peft.PrefixTuningConfig),
}


def _with_prompt(config):
    return peft.get_peft_model(tiny_model("llama"), config(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()


def compiled_inside(model):
    """Compiles the model that a wrapper of PEFT calls, or the base model of another model."""
    if not isinstance(model, peft.PeftModel):
        model.model = torch.compile(model.model, backend="eager")
    elif isinstance(model.base_model, transformers.PreTrainedModel):  # of a learned prompt
        model.base_model = torch.compile(model.base_model, backend="eager")
    else:
        model.base_model.model = torch.compile(model.base_model.model, backend="eager")
    return model


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


WAYS = {
    "wrapped": lambda model: torch.compile(model, backend="eager"),
    "in place": compiled_in_place,
    "inside": compiled_inside,
}


@torch.no_grad()
def output(model) -> torch.Tensor:
    return model(**tiny_batch((9, 9)))[0]


def off(model) -> torch.Tensor:
    with pml.deactivate(model, random_neurons(tiny_model("llama"))):
        return output(model)


def embeddings(model) -> torch.Tensor:
    return pml.sentence_embeddings(model, tiny_tokenizer(), CORPORA, progress=False)["fr"]


CORPORA = {"fr": texts("fr")}
# Each returns a tensor or raises UnsupportedModel.
CALLS = {
    "importance": lambda model: torch.cat(list(pml.importance(model, **tiny_batch()).values()), -1),
    "activations": lambda model: pml.activations(model, tiny_tokenizer(), CORPORA, progress=False)["fr"].active,
    "perplexity": lambda model: torch.tensor(pml.perplexity(model, tiny_tokenizer(), texts("fr"), progress=False)),
    "sentence_embeddings": embeddings,
    "deactivate": off,
}


def result(call, model):
    try:
        return call(model)
    except pml.UnsupportedModel as error:
        return str(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_compiled_models_give_what_others_give(kind, way):
    """The code is compiled before the calls. Refusals say the same."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = MODELS[kind]()
    model = WAYS[way](copy.deepcopy(plain))
    assert torch.allclose(output(model), output(plain), atol=1e-5)
    for name, call in CALLS.items():
        measured, expected = result(call, model), result(call, plain)
        if isinstance(expected, str):
            assert measured == expected, name
        else:
            assert torch.allclose(measured, expected, rtol=1e-5, atol=1e-5), name
    assert not torch.allclose(off(plain), output(plain), atol=1e-2)
