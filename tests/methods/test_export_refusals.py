"""pml.export refuses in one sentence what it cannot write, and leaves nothing behind."""

import json
import re

import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import pymultiling as pml
from pymultiling.models import checkpoint_folder
from tests.support.tiny_models import random_neurons, tiny_model, unknown_model

NEURONS = random_neurons(tiny_model("llama"))


def assert_refused(tmp_path, error, message, model, neurons=NEURONS, **options) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=re.escape(message)) as raised:
        pml.export(model, None, neurons, tmp_path / "out", **options)
    assert "\n" not in str(raised.value) and len(re.findall(r"\. [A-Z]", str(raised.value))) == 0
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def folder(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model", max_shard_size="8KB")
    return tmp_path / "model"


def test_a_place_that_is_taken(tmp_path, folder):
    (tmp_path / "out").mkdir()
    pml.export(folder, None, NEURONS, tmp_path / "out")  # an empty folder is filled
    assert_refused(tmp_path, pml.CheckpointError, "out exists and is not an empty folder", folder)
    assert_refused(tmp_path, pml.CheckpointError, "out exists and is not an empty folder", tiny_model("llama"))
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file")
    assert_refused(tmp_path, pml.CheckpointError, "out exists and is not an empty folder", folder)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(neurons=pml.NeuronSet({"ffn": torch.ones(2, 5, dtype=torch.bool)})), "the set is of another model"),
        (dict(neurons={"fr": pml.NeuronSet({"q": torch.ones(3, 48, dtype=torch.bool)})}), "set fr is of another model"),
        (dict(neurons={}), "at least one"),
        (dict(neurons=[NEURONS]), "must be a set of neurons, or {name: set}"),
        (dict(neurons={"../fr": NEURONS}), "'../fr' cannot be the name of a folder"),
        (dict(scale=float("inf")), "scale must be a finite number"),
        (dict(dtype="int8"), "dtype must be one of auto, float32"),
        (dict(mean={"ffn": torch.ones(2, 37)}), "mean has no values of site"),
        (dict(mean={site: torch.ones(mask.shape) for site, mask in NEURONS.sites.items()}, scale=2.0), "not both"),
    ],
)
def test_wrong_arguments(tmp_path, folder, options, message):
    for model in (folder, tiny_model("llama")):
        assert_refused(tmp_path, ValueError, message, model, **options)


def quantised(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fp8"}}))
    return pml.UnsupportedModel, "are quantised"


def unknown_family(folder):
    for path in folder.iterdir():
        path.unlink()
    unknown_model().save_pretrained(folder)
    return pml.UnsupportedModel, "is of no known family"


def missing_shard(folder):
    min(folder.glob("*.safetensors")).unlink()
    return pml.CheckpointError, "no such file, though model.safetensors.index.json names it"


def damaged_shard(folder):
    path = min(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-4])
    return pml.CheckpointError, "is damaged"


def damaged_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")
    return pml.CheckpointError, "model.safetensors.index.json cannot be read"


def index_that_leaves_the_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    return pml.CheckpointError, "model.safetensors.index.json cannot be read"


def other_files_of_weights(folder):
    for path in folder.glob("model*"):
        path.unlink()
    return pml.CheckpointError, "has neither model.safetensors nor model.safetensors.index.json"


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 24}))
    return pml.UnsupportedModel, "and the configuration asks for"


def other_names(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / index["weight_map"]["model.layers.0.mlp.down_proj.weight"]).unlink()
    index["weight_map"] = {key: name for key, name in index["weight_map"].items() if (folder / name).exists()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return pml.UnsupportedModel, "has no tensor model.layers."


@pytest.mark.parametrize(
    "change",
    [
        quantised, unknown_family, missing_shard, damaged_shard, damaged_index, index_that_leaves_the_folder,
        other_files_of_weights, other_shape, other_names,
    ],
)  # fmt: skip
def test_folders(tmp_path, folder, change):
    error, message = change(folder)
    assert_refused(tmp_path, error, message, folder)


def test_a_folder_that_is_not_there(tmp_path):
    assert_refused(tmp_path, pml.CheckpointError, "no such folder", str(tmp_path / "absent"))


def shared_module(model):
    model.model.layers[1].self_attn.k_proj = model.model.layers[0].self_attn.k_proj
    return pml.UnsupportedModel, "model.layers.0.self_attn.k_proj.weight is also model.layers.1.self_attn.k_proj.weight"


def shared_weight(model):
    model.model.layers[0].mlp.down_proj.weight = model.model.layers[1].mlp.down_proj.weight
    return pml.UnsupportedModel, "is also model.layers.1.mlp.down_proj.weight"


def parametrisation(model):
    parametrizations.weight_norm(model.model.layers[0].mlp.down_proj)
    return pml.UnsupportedModel, "model.layers.0.mlp.down_proj.weight is computed from other tensors"


def compiled_part(model):
    model.model.layers[0].mlp = torch.compile(model.model.layers[0].mlp)
    return pml.UnsupportedModel, "model.layers.0.mlp is compiled"


def trained_neurons(model):
    pml.train_only(model, NEURONS)
    return ValueError, "the model trains some neurons"


def quantised_weight(model):
    model.model.layers[0].mlp.down_proj = nn.Bilinear(2, 2, 2)
    return pml.UnsupportedModel, "no plain torch.nn.Linear"


def adapter(model):
    config = peft.LoraConfig(r=2, target_modules=["down_proj"])
    peft.inject_adapter_in_model(config, model)
    return pml.UnsupportedModel, "model.layers.0.mlp.down_proj is an adapter of PEFT"


@pytest.mark.parametrize(
    "change",
    [shared_module, shared_weight, parametrisation, compiled_part, trained_neurons, quantised_weight, adapter],
)
def test_models_in_memory(tmp_path, change):
    model = tiny_model("llama")
    error, message = change(model)
    assert_refused(tmp_path, error, message, model, verify=False)


def test_a_model_whose_modules_compute_something_else(tmp_path):
    model = tiny_model("llama")
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, args, output: 2 * output)
    assert_refused(tmp_path, pml.UnsupportedModel, "down_proj", model)


@pytest.mark.parametrize("in_memory", [False, True])
def test_nothing_is_left_after_an_error_while_writing(tmp_path, folder, monkeypatch, in_memory):
    copied = []

    def fail(*arguments):
        copied.append(arguments)
        if len(copied) > 1 or in_memory:
            raise OSError("no space left on device")
        return copy_tensors(*arguments)

    copy_tensors = checkpoint_folder.copy_tensors
    monkeypatch.setattr(checkpoint_folder, "copy_tensors", fail)
    assert_refused(tmp_path, OSError, "no space left", tiny_model("llama") if in_memory else folder)
    assert copied
