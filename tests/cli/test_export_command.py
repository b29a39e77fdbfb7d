import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import pymultiling as pml
from tests.methods.test_export import assert_computes, load, logits_off
from tests.support.command_line import assert_error_line, assert_folder_holds, run
from tests.support.published_runs import file_contents
from tests.support.tiny_models import random_neurons, tiny_model

SETS = {"fr": random_neurons(tiny_model("llama")), "de": random_neurons(tiny_model("llama"), seed=1)}
CHECKPOINT = ("model.safetensors", "config.json", "generation_config.json", "README.md", "tokenizer.json",
              "tokenizer_config.json")  # fmt: skip


@pytest.fixture
def found(tmp_path):
    (tmp_path / "found" / "specific").mkdir(parents=True)
    for name, neurons in SETS.items():
        neurons.save(tmp_path / "found" / "specific" / f"{name}.safetensors")
    return tmp_path / "found"


def test_writes_a_checkpoint_of_one_set(model, tmp_path, found, capsys):
    out = tmp_path / "out"
    assert run("export", "--model", model, "--neurons", f"fr={found}", "--out", out, "--scale", 2) == 0
    assert_folder_holds(out, *CHECKPOINT, "run.json")
    assert_computes(out, logits_off(load(model), SETS["fr"], scale=2.0))
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == {"name": str(model), "revision": None, "type": "llama", "dtype": "float32"}
    assert record["command"] == "export" and set(record["files"]) == set(CHECKPOINT)
    assert f"{out}: {len(SETS['fr'])} neurons of fr scaled by 2" in capsys.readouterr().out


def test_writes_a_folder_for_each_of_several_sets(model, tmp_path, found, capsys):
    out = tmp_path / "out"
    assert run("export", "--model", model, "--neurons", found, "--out", out, "--dtype", "bfloat16") == 0
    assert_folder_holds(out, "de", "fr", "run.json")
    for name, neurons in SETS.items():
        assert_folder_holds(out / name, *CHECKPOINT)
        assert_computes(out / name, logits_off(load(model, dtype="bfloat16"), neurons))
    assert json.loads((out / "run.json").read_text())["model"]["dtype"] == "bfloat16"
    assert f"{out / 'fr'}: {len(SETS['fr'])} neurons of fr switched off" in capsys.readouterr().out


def test_takes_the_model_in_the_results_of_tune_and_models_on_the_hub(model, tmp_path, found, hub):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "model").symlink_to(model)
    hub.add("me/llama", {**file_contents(model), "consolidated.safetensors": b"other weights"})
    for number, name in enumerate((tmp_path / "tuned", "me/llama")):
        assert run("export", "--model", name, "--neurons", f"fr={found}", "--out", tmp_path / str(number)) == 0
    local, fetched = (load_file(tmp_path / number / "model.safetensors") for number in "01")
    assert all(torch.equal(tensor, fetched[name]) for name, tensor in local.items())
    assert_folder_holds(tmp_path / "1", *CHECKPOINT, "run.json")
    assert "base_model: me/llama" in (tmp_path / "1" / "README.md").read_text()
    assert json.loads((tmp_path / "1" / "run.json").read_text())["model"]["revision"]


@pytest.mark.parametrize(
    "options, status, text",
    [
        ([], 2, "the following arguments are required: --neurons"),
        (["--neurons", "found", "--scale", "nan"], 1, "scale must be a finite number, got nan"),
        (["--neurons", "found", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
        (["--neurons", "foreign.safetensors"], 1, "foreign.safetensors is neither NAME=FILE nor a folder"),
        (["--neurons", "fr=foreign.safetensors"], 1, "is of another model: its ffn is 3 layers x 5 neurons"),
        (["--neurons", "found", "--out", "found"], 1, "found exists and is not an empty folder"),
        (["--neurons", "found", "--model", "absent/model/x"], 1, "no such folder"),
    ],
)
def test_rejects_wrong_arguments(model, tmp_path, found, capsys, monkeypatch, options, status, text):
    monkeypatch.chdir(tmp_path)
    pml.NeuronSet({"ffn": torch.ones(3, 5, dtype=torch.bool)}).save("foreign.safetensors")
    before = sorted(tmp_path.rglob("*"))
    assert run("export", "--model", model, "--out", "out", *options) == status
    assert_error_line(capsys, text)
    assert sorted(tmp_path.rglob("*")) == before


def test_rejects_quantised_weights(model, tmp_path, found, capsys):
    shutil.copytree(model, tmp_path / "quantised")
    config = json.loads((model / "config.json").read_text())
    changed = json.dumps({**config, "quantization_config": {"quant_method": "fp8"}})
    (tmp_path / "quantised" / "config.json").write_text(changed)
    before = sorted(tmp_path.rglob("*"))
    assert run("export", "--model", tmp_path / "quantised", "--neurons", found, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "are quantised")
    assert sorted(tmp_path.rglob("*")) == before
