import json

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import SMALL_BATCHES, assert_error_line, detect, repeat, run
from tests.support.tiny_text import tiny_tokenizer, write_text


def test_writes_perplexities_and_changes_with_each_set_deactivated(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    french_set = tmp_path / "found" / "neurons" / "fr.safetensors"
    sets = ["--neurons", tmp_path / "found" / "specific", "--neurons", f"all={french_set}", "--random", 2, "--seed", 3]
    texts = repeat("--texts", corpora)
    assert run("ablate", "--model", model, *sets, *texts, "--out", tmp_path / "out", *SMALL_BATCHES) == 0
    perplexities = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="off")
    change = pandas.read_csv(tmp_path / "out" / "log_change.csv", index_col="off")
    drawn = [f"random {draw} as {name}" for name in ("de", "fr", "all") for draw in (1, 2)]
    names = ["de", "fr", "all", *drawn]
    assert list(perplexities.index) == ["none", *names] and list(change.index) == names
    assert list(perplexities.columns) == ["fr", "de"]
    ratio = torch.tensor(perplexities.loc["all", "fr"] / perplexities.loc["none", "fr"])
    assert change.loc["all", "fr"] == pytest.approx(ratio.log().item())
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == 3
    table = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language")
    draws = change.loc[["random 1 as fr", "random 2 as fr"], "fr"]
    assert list(table.index) == ["de", "fr", "all", "mean"] and pandas.isna(table.loc["all", "own"])
    assert table.loc["fr", "own"] == pytest.approx(change.loc["fr", "fr"])
    assert table.loc["fr", "others"] == pytest.approx(change.loc["fr", "de"])
    expected = [draws.mean(), draws.min(), draws.max()]
    assert table.loc["fr", ["random", "random_least", "random_most"]].tolist() == pytest.approx(expected)
    printed = capsys.readouterr().out
    for text in ("Perplexity", "change of log-perplexity", "specific to its language if", "random as fr"):
        assert text in printed
    assert "random 1 as fr" not in printed
    lines = printed.splitlines()
    assert lines[-7].split()[:5] == ["own", "others", "random", "least", "to"]  # a heading, and a line for each set
    assert [line.split()[0] for line in lines[-6:-2]] == ["de", "fr", "all", "mean"], lines


def test_draws_five_random_sets_unless_told_otherwise(model, tmp_path, corpora):
    pml.NeuronSet({"ffn": torch.eye(2, 37, dtype=torch.bool)}).save(tmp_path / "fr.safetensors")
    arguments = ["--neurons", f"fr={tmp_path / 'fr.safetensors'}", "--texts", f"fr={corpora['fr']}", *SMALL_BATCHES]
    for options, draws, seed in (((), 5, 0), (("--random", 0), 0, None)):
        assert run("ablate", "--model", model, *arguments, *options, "--out", tmp_path / "out") == 0
        rows = list(pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="off").index)
        assert rows == ["none", "fr", *(f"random {draw + 1} as fr" for draw in range(draws))]
        assert json.loads((tmp_path / "out" / "run.json").read_text())["seed"] == seed


@pytest.mark.parametrize("change", [("--scale", "2"), ("--mean", "fr")])
def test_scale_and_mean_give_the_perplexity_that_deactivate_gives(model, tmp_path, corpora, change):
    assert detect(model, corpora, tmp_path / "found") == 0
    neurons = pml.NeuronSet.load(tmp_path / "found" / "neurons" / "fr.safetensors")
    change = [str(corpora.get(word, word)) for word in change]
    arguments = ["--neurons", f"all={tmp_path / 'found' / 'neurons' / 'fr.safetensors'}", *change]
    out = tmp_path / "out"
    texts = ["--texts", f"de={corpora['de']}"]
    assert run("ablate", "--model", model, *arguments, *texts, "--out", out, *SMALL_BATCHES) == 0
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer()
    means = pml.mean_activations(loaded, tokenizer, corpora["fr"], max_length=16)
    options = {"scale": 2.0} if change[0] == "--scale" else {"mean": means}
    with pml.deactivate(loaded, neurons, **options):
        truth = pml.perplexity(loaded, tokenizer, corpora["de"], max_length=16)
    assert pandas.read_csv(out / "perplexity.csv", index_col="off").loc["all", "de"] == pytest.approx(truth, rel=1e-5)


def test_warns_of_an_empty_set(model, tmp_path, corpora, capsys):
    pml.NeuronSet({"ffn": torch.zeros(2, 37, dtype=torch.bool)}).save(tmp_path / "nothing.safetensors")
    arguments = ["--neurons", f"nothing={tmp_path / 'nothing.safetensors'}", "--texts", f"de={corpora['de']}"]
    assert run("ablate", "--model", model, *arguments, "--out", tmp_path / "out", *SMALL_BATCHES) == 0
    assert "pymultiling ablate: set 'nothing' has no neurons" in capsys.readouterr().err


def test_rejects_a_length_that_leaves_nothing_to_predict(model, tmp_path, corpora, capsys):
    assert detect(model, corpora, tmp_path / "found") == 0
    write_text(tmp_path / "short.txt", ["w3"])
    arguments = ["--neurons", tmp_path / "found" / "specific", "--texts", f"fr={tmp_path / 'short.txt'}"]
    out = tmp_path / "out"
    assert run("ablate", "--model", model, *arguments, "--out", out, "--max-length", "1") == 1
    assert_error_line(capsys, "at least 2 tokens")
    assert not out.exists()


def test_rejects_sets_that_cannot_be_used(model, tmp_path, corpora, capsys):
    foreign_set = tmp_path / "foreign.safetensors"
    pml.NeuronSet({"ffn": torch.zeros(3, 5, dtype=torch.bool)}).save(foreign_set)
    out = tmp_path / "out"
    options = ["--texts", f"fr={corpora['fr']}", "--model", model, "--out", out]
    for sets, texts in (
        ([f"x={foreign_set}"], ("set 'x'", "another model")),
        ([f"x={tmp_path / 'absent.safetensors'}"], ("no such file",)),
        ([f"x={corpora['fr']}"], ("is not a set of neurons",)),
        ([tmp_path / "model"], ("NAME=FILE",)),
        ([f"x={foreign_set}", f"x={foreign_set}"], ("the name 'x' is already in use",)),
        ([f"none={foreign_set}"], ("the name 'none' is already in use",)),
    ):
        set_options = [word for argument in sets for word in ("--neurons", argument)]
        assert run("ablate", *set_options, *options) == 1
        assert_error_line(capsys, *texts)
        assert not out.exists()
