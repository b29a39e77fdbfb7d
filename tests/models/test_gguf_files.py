"""Files of llama.cpp: transformers widens their weights, and the model is measured as any other."""

import pytest
import torch
import transformers

import pymultiling as pml
from pymultiling.cli import main
from pymultiling.models.loading import load_model
from tests.support.tiny_models import random_neurons, tiny_batch, tiny_model

pytest.importorskip("gguf", reason="the package gguf, which writes and reads these files, is not installed")

from tests.support.gguf_file import write_gguf


@pytest.fixture
def saved(tmp_path):
    """Returns the path of a file, and a model with the numbers in it."""
    model = tiny_model("qwen2", intermediate_size=64)
    path = tmp_path / "tiny.gguf"
    model.load_state_dict(write_gguf(path, model))
    return path, model


def test_a_model_from_a_file_is_measured(saved):
    """Compared with a model that holds the same numbers, bit for bit."""
    path, truth = saved
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    measured, expected = (pml.importance(one, **tiny_batch()) for one in (loaded, truth))
    assert all(torch.equal(measured[site], expected[site]) for site in pml.SITES)
    neurons = random_neurons(truth)
    with torch.no_grad(), pml.deactivate(loaded, neurons), pml.deactivate(truth, neurons):
        assert torch.equal(loaded(**tiny_batch()).logits, truth(**tiny_batch()).logits)


def test_commands_take_the_path_of_a_file(saved, tmp_path, capsys):
    path, truth = saved
    model, tokenizer = load_model(str(path), torch.device("cpu"))
    assert model.dtype == torch.float32 and tokenizer.tokenize("abc") == ["ab", "c"]
    with pml.train_only(model, random_neurons(truth)):  # no mark of transformers forbids it
        pass
    (tmp_path / "fr.txt").write_text("abc ad\nae b\n")
    corpus = f"fr={tmp_path / 'fr.txt'}"
    words = ["detect", "--model", path, "--corpus", corpus, "--pack", "none", "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    detected = pml.detect(truth, tokenizer, {"fr": ["abc ad", "ae b"]}, progress=False).neurons["fr"]
    assert pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors") == detected
    assert main(["doctor", "--model", str(path)]) == 0
    assert "agrees" in capsys.readouterr().out
