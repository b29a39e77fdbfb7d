import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import QUICK, assert_one_sentence, detect, run
from tests.support.tiny_text import tiny_tokenizer, write_text


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


def test_a_length_that_leaves_nothing_to_predict(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    write_text(tmp_path / "short.txt", ["w3"])
    arguments = ["--neurons", tmp_path / "found" / "specific", "--texts", f"fr={tmp_path / 'short.txt'}"]
    out = tmp_path / "out"
    assert run("ablate", "--model", model, *arguments, "--out", out, "--max-length", "1") == 1
    assert_one_sentence(capsys, "at least 2 tokens")
    assert not out.exists()


def test_bad_sets(model, tmp_path, corpora, capsys):
    other = tmp_path / "other.safetensors"
    pml.NeuronSet({"ffn": torch.zeros(3, 5, dtype=torch.bool)}).save(other)
    out, given = tmp_path / "out", ["--texts", f"fr={corpora['fr']}", "--model", model, "--out", tmp_path / "out"]
    for sets, words in (
        ([f"x={other}"], ("set 'x'", "another model")),
        ([f"x={tmp_path / 'absent.safetensors'}"], ("no such file",)),
        ([f"x={corpora['fr']}"], ("is not a set of neurons",)),
        ([tmp_path / "model"], ("NAME=FILE",)),
        ([f"x={other}", f"x={other}"], ("'x' is taken",)),
        ([f"none={other}"], ("'none' is taken",)),
    ):
        arguments = [argument for one in sets for argument in ("--neurons", one)]
        assert run("ablate", *arguments, *given) == 1
        assert_one_sentence(capsys, *words)
        assert not out.exists()
