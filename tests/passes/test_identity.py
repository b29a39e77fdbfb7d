"""Hashes of models and tokenizers do not depend on how they were loaded, but on everything that affects results."""

import pytest
import torch
from transformers import AddedToken, AutoModelForCausalLM, ByT5Tokenizer

from pymultiling.data.documents import tokenizer_hash
from pymultiling.passes.identity import model_hash
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import save_model, tiny_tokenizer


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_the_hash_of_a_model_does_not_depend_on_how_it_was_loaded(tmp_path, name):
    model = tiny_model(name)
    truth = model_hash(model)
    save_model(tmp_path / "a", model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=model.dtype)
    save_model(tmp_path / "b", loaded)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype=model.dtype)
    reloaded.config.use_cache = not reloaded.config.use_cache
    assert model_hash(loaded) == model_hash(reloaded) == truth == model_hash(tiny_model(name))
    as_stored = model_hash(model.to(torch.bfloat16))
    assert as_stored != truth
    assert model_hash(AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype=torch.bfloat16)) == as_stored


def swap_neurons(model) -> None:
    """Swaps two neurons, which does not change the model's outputs."""
    ffn, order = model.model.layers[1].mlp, [1, 0]
    for weight in (ffn.gate_proj.weight, ffn.up_proj.weight):
        weight[:2] = weight[order]
    ffn.down_proj.weight[:, :2] = ffn.down_proj.weight[:, order]


def change_weight(model) -> None:
    model.model.layers[1].mlp.down_proj.weight[2, 3] += 1e-6


def change_sign(model) -> None:
    model.model.norm.weight[0] *= -1


def change_setting(model) -> None:
    model.config.rms_norm_eps *= 2


@pytest.mark.parametrize("change", [swap_neurons, change_weight, change_sign, change_setting])
@torch.no_grad()
def test_a_changed_model_has_another_hash(change):
    model = tiny_model("llama")
    truth = model_hash(model)
    change(model)
    assert model_hash(model) != truth


def test_the_hash_of_a_tokenizer_does_not_depend_on_how_it_was_loaded(tmp_path):
    for name, tokenizer in (("fast", tiny_tokenizer()), ("slow", ByT5Tokenizer(extra_ids=3))):
        truth = tokenizer_hash(tokenizer)
        for folder in ("a", "b"):
            tokenizer.save_pretrained(tmp_path / name / folder)
            tokenizer = type(tokenizer).from_pretrained(tmp_path / name / folder)
            tokenizer("w3 w4", truncation=True, max_length=1)
            restored_hash = tokenizer_hash(tokenizer)
            assert restored_hash == tokenizer_hash(type(tokenizer).from_pretrained(tmp_path / name / folder))
        assert restored_hash == truth
        tokenizer.add_tokens([AddedToken("new word", lstrip=True)])
        assert tokenizer_hash(tokenizer) != restored_hash
