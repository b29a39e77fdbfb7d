import json
import math

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pymultiling as pml
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, run
from tests.support.tiny_models import random_neurons, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

pytest.importorskip("accelerate")

NEURONS = random_neurons(tiny_model("llama"), sites=("ffn", "q", "o"))
FAST = ["--rate", "0.01", "--batch", "4"]


@pytest.fixture
def neurons(tmp_path):
    NEURONS.save(tmp_path / "set.safetensors")
    return tmp_path / "set.safetensors"


def tune(model, path, out, *more) -> int:
    return run("tune", "--model", model, "--texts", path, "--out", out, *SMALL_BATCHES, *FAST, *more)


def saved(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def moved(model, out) -> dict[str, torch.Tensor]:
    """Which entries of every parameter differ from the base model's."""
    base, tuned = saved(model), saved(out / "model")
    assert list(base) == list(tuned)
    return {name: tuned[name] != base[name] for name in base}


def chosen_entries(model, neurons: pml.NeuronSet) -> dict[str, torch.Tensor]:
    """Which entries belong to the neurons: those that a copy without them has not."""
    base = AutoModelForCausalLM.from_pretrained(model)
    off = with_zeroed_neurons(base, neurons).state_dict()
    return {name: off[name] != value for name, value in base.state_dict().items()}


def assert_moved_exactly(model, out, neurons: pml.NeuronSet) -> None:
    changed = moved(model, out)
    for name, chosen in chosen_entries(model, neurons).items():
        assert not (changed[name] & ~chosen).any(), name
        assert not chosen.any() or changed[name][chosen].double().mean() > 0.9, name
    assert not changed["model.embed_tokens.weight"].any() and changed["model.layers.1.mlp.up_proj.weight"].any()


def assert_merged(model, out) -> None:
    """The differences that were kept, merged into the base model, are the model that was saved."""
    base = AutoModelForCausalLM.from_pretrained(model)
    pml.NeuronTuning.load(base, out / "tuning.safetensors").merge()
    tuned = saved(out / "model")
    assert all(torch.equal(value, tuned[name]) for name, value in base.state_dict().items())


def test_neurons(model, tmp_path, corpora, neurons, capsys):
    out = tmp_path / "out"
    heldout = [argument for name, path in corpora.items() for argument in ("--heldout", f"{name}={path}")]
    given = ["--neurons", neurons, "--epochs", 3, "--seed", 5, *heldout]
    assert tune(model, corpora["fr"], out, *given) == 0
    printed = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {
        "model", "tuning.safetensors", "perplexity.csv", "log.csv", "run.json",
    }  # fmt: skip
    assert_moved_exactly(model, out, NEURONS)
    assert_merged(model, out)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer("w3 w9")["input_ids"] == tiny_tokenizer()("w3 w9")["input_ids"]
    table = pandas.read_csv(out / "perplexity.csv", index_col="language")
    assert list(table.index) == ["fr", "de"] and list(table.columns) == ["before", "after", "change"]
    for when, folder in (("before", model), ("after", out / "model")):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        for name, path in corpora.items():
            assert table.loc[name, when] == pytest.approx(pml.perplexity(loaded, tokenizer, path, max_length=16))
    assert table.loc["fr", "change"] == pytest.approx(math.log(table.loc["fr", "after"] / table.loc["fr", "before"]))
    assert table.loc["fr", "change"] < -0.1
    log = pandas.read_csv(out / "log.csv")
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]  # 6 documents, 4 a step, 3 times
    assert log["rate"].max() == 0.01 and log["loss"].iloc[-1] < log["loss"].iloc[0]
    trained = sum(int(chosen.sum()) for chosen in chosen_entries(model, NEURONS).values())
    record = json.loads((out / "run.json").read_text())
    assert record["parameters"] == trained and record["documents"] == 6 and record["seed"] == 5
    assert 8 * trained <= record["optimizer_bytes"] < 8 * trained + 500  # two moments of float32, and steps
    assert set(record["corpora"]) == {"texts", "heldout, fr", "heldout, de"} and record["texts"]["texts"] == 6
    assert {"load", "perplexity before", "train", "perplexity after", "write", "total"} == set(record["seconds"])
    assert "read: texts 6\n" in printed.out and "held-out perplexity" in printed.out
    assert f"trained on 6 documents, 6 steps: {len(NEURONS)} neurons, {trained:,} parameters" in printed.out
    assert "training: 6 of 6 steps" in printed.err


def test_random(model, tmp_path, corpora, neurons):
    for seed in (1, 2):
        assert tune(model, corpora["fr"], tmp_path / str(seed), "--random", neurons, "--seed", seed) == 0
        assert_merged(model, tmp_path / str(seed))
    one, other = (
        pml.NeuronTuning.load(AutoModelForCausalLM.from_pretrained(model), tmp_path / seed / "tuning.safetensors")
        for seed in ("1", "2")
    )
    assert one.neurons == NEURONS.random_like(1)
    assert one.neurons.count("layer") == other.neurons.count("layer") == NEURONS.count("layer")
    assert len(one.neurons ^ NEURONS) > 0 and len(one.neurons ^ other.neurons) > 0
    assert_moved_exactly(model, tmp_path / "1", one.neurons)


@pytest.mark.parametrize("frozen", [0, 1])
def test_freeze(model, tmp_path, corpora, frozen, capsys):
    assert tune(model, corpora["fr"], tmp_path / "out", "--freeze", frozen) == 0
    kept = ("model.layers.0.", "model.embed_tokens.", "lm_head.") if frozen else ()
    changed = moved(model, tmp_path / "out")
    assert {name for name, entries in changed.items() if not entries.any()} == {
        name for name in changed if name.startswith(kept)
    }
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    base = saved(model)
    assert record["parameters"] == sum(base[name].numel() for name in base if not name.startswith(kept))
    assert not (tmp_path / "out" / "tuning.safetensors").exists()
    assert "perplexity" not in capsys.readouterr().out  # there is no --heldout


def test_documents_and_seed(model, tmp_path, corpora, neurons):
    """A run is repeated by its arguments; --documents takes the first."""
    write_text(tmp_path / "three.txt", texts("fr")[:3])
    one = ["--neurons", neurons, "--batch", 1]
    runs = {
        "three": (tmp_path / "three.txt", *one),
        "first": (corpora["fr"], *one, "--documents", 3),
        "seed": (corpora["fr"], *one, "--documents", 3, "--seed", 1),
    }
    logs = {}
    for name, (path, *more) in runs.items():
        assert tune(model, path, tmp_path / name, *more) == 0
        logs[name] = (tmp_path / name / "log.csv").read_text()
    assert logs["three"] == logs["first"] != logs["seed"] and len(logs["seed"].splitlines()) == 4


@pytest.mark.parametrize(
    "options, documents, told",
    [
        ({"max_length": 5}, 6, "texts 6, cut 4"),
        ({"max_length": 16, "pack": 6}, 9, "texts 6, left over 4"),  # 43 words and 6 ends, 5 of them a document
    ],
)
def test_documents_are_cut_and_packed(model, tmp_path, corpora, capsys, options, documents, told):
    more = [one for name, size in options.items() for one in (f"--{name.replace('_', '-')}", size)]
    given = ["--freeze", 1, "--heldout", f"de={corpora['de']}", *more]
    assert tune(model, corpora["fr"], tmp_path / "out", *given) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"read: {told}\ntrained on {documents} documents, ")
    before = pml.perplexity(AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer(), corpora["de"], **options)
    table = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="language")
    assert table.loc["de", "before"] == pytest.approx(before)


@pytest.mark.parametrize(
    "more, status, words",
    [
        ([], 2, "one of the arguments --neurons --random --freeze is required"),
        (["--neurons", "SET", "--random", "SET"], 2, "--random: not allowed with argument --neurons"),
        (["--freeze", "0", "--neurons", "SET"], 2, "--neurons: not allowed with argument --freeze"),
        (["--freeze", "-1"], 2, "--freeze: '-1' is not a count"),
        (["--freeze", "1", "--heldout", "fr=fr.txt", "--heldout", "fr=fr.txt"], 2, "'fr' is given more than once"),
        (["--freeze", "1", "--texts", "de.txt"], 2, "--texts: given more than once, and only one file is read"),
        (["--freeze", "99"], 1, "--freeze 99: the model has 2 layers"),
        (["ON absent.txt", "--freeze", "1"], 1, "absent.txt: no such file"),
        (["--freeze", "1", "--heldout", "it=absent.txt"], 1, "absent.txt: no such file"),
        (["--freeze", "1", "--rate", "0"], 2, "--rate: '0' is not a number above 0"),
        (["ON blank.txt", "--freeze", "1"], 1, "the texts have no token to predict: texts 2, empty 2"),
        (["--neurons", "OTHER"], 1, "of another model: its ffn is 3 layers x 5 neurons, this model's 2 x 37"),
        (["--random", "OTHER"], 1, "of another model"),
        (["--neurons", "NOTHING"], 1, "the set has no neurons"),
        (["--neurons", "absent.safetensors"], 1, "absent.safetensors: no such file"),
        (["--neurons", "fr.txt"], 1, "fr.txt is not a set of neurons"),
    ],
)
def test_wrong_arguments(model, tmp_path, corpora, neurons, capsys, monkeypatch, more, status, words):
    monkeypatch.chdir(tmp_path)
    pml.NeuronSet({"ffn": torch.ones(3, 5, dtype=torch.bool)}).save("other.safetensors")
    (NEURONS - NEURONS).save("nothing.safetensors")
    write_text(tmp_path / "blank.txt", ["", " "])
    before = [path.name for path in tmp_path.iterdir()]
    names = {"SET": neurons.name, "OTHER": "other.safetensors", "NOTHING": "nothing.safetensors"}
    path = more.pop(0).removeprefix("ON ") if more and more[0].startswith("ON ") else "fr.txt"
    assert tune(model, path, "out", *(names.get(argument, argument) for argument in more)) == status
    assert_error_line(capsys, words)
    assert_folder_holds(tmp_path, *before)


def test_a_loss_that_is_not_finite(model, tmp_path, corpora, capsys):
    given = ["--freeze", "0", "--rate", "1e30", "--epochs", "3"]
    assert tune(model, corpora["fr"], tmp_path / "out", *given) == 1
    assert_error_line(capsys, "the loss is nan; try a lower rate")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")
