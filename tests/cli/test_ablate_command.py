import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import QUICK, detect, run
from tests.support.tiny_text import tiny_tokenizer


def test_ablate(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    one = tmp_path / "found" / "neurons" / "fr.safetensors"
    arguments = ["--neurons", tmp_path / "found" / "specific", "--neurons", f"all={one}", "--random", 3]
    given = [argument for name, path in corpora.items() for argument in ("--texts", f"{name}={path}")]
    assert run("ablate", "--model", model, *arguments, *given, "--out", tmp_path / "out", *QUICK) == 0
    perplexities = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="off")
    change = pandas.read_csv(tmp_path / "out" / "log_change.csv", index_col="off")
    names = ["de", "fr", "all", "random as de", "random as fr", "random as all"]
    assert list(perplexities.index) == ["none", *names] and list(change.index) == names
    assert list(perplexities.columns) == ["fr", "de"]
    ratio = torch.tensor(perplexities.loc["all", "fr"] / perplexities.loc["none", "fr"])
    assert change.loc["all", "fr"] == pytest.approx(ratio.log().item())
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 3
    printed = capsys.readouterr().out
    assert "perplexity" in printed and "change of log-perplexity" in printed


@pytest.mark.parametrize("change", [("--scale", "2"), ("--mean", "fr")])
def test_ablate_by_scale_and_by_mean(model, tmp_path, corpora, change):
    assert detect(model, corpora, tmp_path / "found") == 0
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    change = [str(corpora.get(one, one)) for one in change]
    arguments = ["--neurons", f"all={tmp_path / 'found' / 'neurons' / 'fr.safetensors'}", *change]
    out = tmp_path / "out"
    assert run("ablate", "--model", model, *arguments, "--texts", f"de={corpora['de']}", "--out", out, *QUICK) == 0
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    means = pml.mean_activations(loaded, tokenizer, corpora["fr"], max_length=16)
    options = {"scale": 2.0} if change[0] == "--scale" else {"mean": means}
    with pml.deactivate(loaded, neurons, **options):
        truth = pml.perplexity(loaded, tokenizer, corpora["de"], max_length=16)
    assert pandas.read_csv(out / "perplexity.csv", index_col="off").loc["all", "de"] == pytest.approx(truth, rel=1e-5)


def test_an_empty_set_is_told_of(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.zeros(2, 37, dtype=torch.bool)}).save(tmp_path / "nothing.safetensors")
    arguments = ["--neurons", f"nothing={tmp_path / 'nothing.safetensors'}", "--texts", f"de={corpora['de']}"]
    assert run("ablate", "--model", model, *arguments, "--out", tmp_path / "out", *QUICK) == 0
    assert "pymultiling ablate: set 'nothing' has no neurons" in capsys.readouterr().err
