import inspect
import json
import math

import pandas
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pymultiling as pml
from pymultiling.cli.shared.command_line import make_parser
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, repeat, run
from tests.support.tiny_models import random_neurons, tiny_model, with_zeroed_neurons
from tests.support.tiny_text import texts, tiny_tokenizer, write_text

pytest.importorskip("accelerate")

NEURONS = random_neurons(tiny_model("llama"), sites=("ffn", "q", "o"))
FAST_TRAINING = ["--rate", "0.01", "--batch", "4"]


@pytest.fixture
def neurons(tmp_path):
    NEURONS.save(tmp_path / "set.safetensors")
    return tmp_path / "set.safetensors"


def tune(model, path, out, *options) -> int:
    settings = [*SMALL_BATCHES, *FAST_TRAINING]
    return run("tune", "--model", model, "--texts", path, "--out", out, *settings, *options)


def test_the_command_trains_as_fine_tune_does_by_default():
    arguments = make_parser().parse_args(["tune", "--model", "m", "--texts", "t", "--random", "r", "--out", "o"])
    parameters = inspect.signature(pml.fine_tune).parameters
    for name in ("rate", "epochs", "batch", "documents", "max_length", "pack", "seed"):
        assert getattr(arguments, name) == parameters[name].default, name


def load_parameters(folder) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def changed_entries(model, out) -> dict[str, torch.Tensor]:
    """Returns {parameter: which of its entries differ from those of the base model}."""
    base, tuned = load_parameters(model), load_parameters(out / "model")
    assert list(base) == list(tuned)
    return {name: tuned[name] != base[name] for name in base}


def neuron_entries(model, neurons: pml.NeuronSet) -> dict[str, torch.Tensor]:
    """Returns {parameter: which of its entries belong to the neurons}, as setting the neurons to zero changes them."""
    base = AutoModelForCausalLM.from_pretrained(model)
    zeroed = with_zeroed_neurons(base, neurons).state_dict()
    return {name: zeroed[name] != value for name, value in base.state_dict().items()}


def assert_only_neurons_changed(model, out, neurons: pml.NeuronSet) -> None:
    """Asserts that no other entry changed, and that nearly all entries of the neurons did."""
    changed = changed_entries(model, out)
    for name, is_neuron in neuron_entries(model, neurons).items():
        assert not (changed[name] & ~is_neuron).any(), name
        assert not is_neuron.any() or changed[name][is_neuron].double().mean() > 0.9, name
    assert not changed["model.embed_tokens.weight"].any() and changed["model.layers.1.mlp.up_proj.weight"].any()


def assert_saved_changes_give_the_saved_model(model, out) -> None:
    """Asserts that the base model with the saved changes merged into it is the saved model, bit for bit."""
    base = AutoModelForCausalLM.from_pretrained(model)
    pml.NeuronTuning.load(base, out / "tuning.safetensors").merge()
    tuned = load_parameters(out / "model")
    assert all(torch.equal(value, tuned[name]) for name, value in base.state_dict().items())


def test_trains_the_neurons_of_a_set_only(model, tmp_path, corpora, neurons, capsys):
    out = tmp_path / "out"
    options = ["--neurons", neurons, "--epochs", 3, "--seed", 5, *repeat("--heldout", corpora)]
    assert tune(model, corpora["fr"], out, *options) == 0
    printed = capsys.readouterr()
    assert {path.name for path in out.iterdir()} == {
        "model", "tuning.safetensors", "perplexity.csv", "log.csv", "run.json", "report.html",
    }  # fmt: skip
    assert_only_neurons_changed(model, out, NEURONS)
    assert_saved_changes_give_the_saved_model(model, out)
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer("w3 w9")["input_ids"] == tiny_tokenizer()("w3 w9")["input_ids"]
    table = pandas.read_csv(out / "perplexity.csv", index_col="language")
    assert list(table.index) == ["fr", "de"] and list(table.columns) == ["before", "after", "change"]
    for column, folder in (("before", model), ("after", out / "model")):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
        for name, path in corpora.items():
            assert table.loc[name, column] == pytest.approx(pml.perplexity(loaded, tokenizer, path, max_length=16))
    assert table.loc["fr", "change"] == pytest.approx(math.log(table.loc["fr", "after"] / table.loc["fr", "before"]))
    assert table.loc["fr", "change"] < -0.1
    log = pandas.read_csv(out / "log.csv")
    assert log["step"].tolist() == [1, 2, 3, 4, 5, 6]  # 3 epochs of 6 documents, 4 in a step
    assert log["rate"].max() == 0.01 and log["loss"].iloc[-1] < log["loss"].iloc[0]
    trained = sum(int(entries.sum()) for entries in neuron_entries(model, NEURONS).values())
    record = json.loads((out / "run.json").read_text())
    assert record["parameters"] == trained and record["documents"] == 6 and record["seed"] == 5
    assert (
        8 * trained <= record["optimizer_bytes"] < 8 * trained + 500
    )  # AdamW keeps two float32 moments for each, and step counters
    assert set(record["corpora"]) == {"texts", "heldout, fr", "heldout, de"} and record["texts"]["texts"] == 6
    assert {"load", "perplexity before", "train", "perplexity after", "write", "total"} == set(record["seconds"])
    assert "read: texts 6\n" in printed.out and "held-out perplexity" in printed.out
    assert f"trained on 6 documents, 6 steps: {len(NEURONS)} neurons, {trained:,} parameters" in printed.out
    assert "training: 6 of 6 steps" in printed.err


def test_trains_the_set_of_one_language_in_the_results_of_detect(model, tmp_path, corpora, capsys):
    (tmp_path / "found" / "specific").mkdir(parents=True)
    NEURONS.save(tmp_path / "found" / "specific" / "fr.safetensors")
    (NEURONS - NEURONS).save(tmp_path / "found" / "specific" / "de.safetensors")
    assert tune(model, corpora["fr"], tmp_path / "out", "--neurons", f"fr={tmp_path / 'found'}") == 0
    assert_only_neurons_changed(model, tmp_path / "out", NEURONS)
    assert tune(model, corpora["fr"], tmp_path / "other", "--neurons", tmp_path / "found") == 1
    assert_error_line(capsys, "has the sets of de, fr, and one is needed: give it as de=")


def test_trains_as_many_random_neurons_in_each_layer(model, tmp_path, corpora, neurons):
    for seed in (1, 2):
        assert tune(model, corpora["fr"], tmp_path / str(seed), "--random", neurons, "--seed", seed) == 0
        assert_saved_changes_give_the_saved_model(model, tmp_path / str(seed))
    first, second = (
        pml.NeuronTuning.load(AutoModelForCausalLM.from_pretrained(model), tmp_path / seed / "tuning.safetensors")
        for seed in ("1", "2")
    )
    assert first.neurons == NEURONS.random_like(1)
    assert first.neurons.count("layer") == second.neurons.count("layer") == NEURONS.count("layer")
    assert len(first.neurons ^ NEURONS) > 0 and len(first.neurons ^ second.neurons) > 0
    assert_only_neurons_changed(model, tmp_path / "1", first.neurons)


@pytest.mark.parametrize("frozen", [0, 1])
def test_freezes_the_first_layers_embeddings_and_head(model, tmp_path, corpora, frozen, capsys):
    assert tune(model, corpora["fr"], tmp_path / "out", "--freeze", frozen) == 0
    frozen_names = ("model.layers.0.", "model.embed_tokens.", "lm_head.") if frozen else ()
    changed = changed_entries(model, tmp_path / "out")
    assert {name for name, entries in changed.items() if not entries.any()} == {
        name for name in changed if name.startswith(frozen_names)
    }
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    base = load_parameters(model)
    assert record["parameters"] == sum(base[name].numel() for name in base if not name.startswith(frozen_names))
    assert not (tmp_path / "out" / "tuning.safetensors").exists()
    assert "perplexity" not in capsys.readouterr().out  # without --heldout none is measured


def test_documents_takes_the_first_and_seed_changes_the_order(model, tmp_path, corpora, neurons):
    """A file of three texts gives the same log as --documents 3 on all texts."""
    write_text(tmp_path / "three.txt", texts("fr")[:3])
    common = ["--neurons", neurons, "--batch", 1]
    runs = {
        "three": (tmp_path / "three.txt", *common),
        "first": (corpora["fr"], *common, "--documents", 3),
        "seed": (corpora["fr"], *common, "--documents", 3, "--seed", 1),
    }
    logs = {}
    for name, (path, *options) in runs.items():
        assert tune(model, path, tmp_path / name, *options) == 0
        logs[name] = (tmp_path / name / "log.csv").read_text()
    assert logs["three"] == logs["first"] != logs["seed"] and len(logs["seed"].splitlines()) == 4


@pytest.mark.parametrize(
    "settings, documents, report",
    [
        ({"max_length": 5}, 6, "texts 6, cut 4"),
        (
            {"max_length": 16, "pack": 6},
            9,
            "texts 6, left over 4",
        ),  # 43 words and 6 end-of-text tokens, 5 in each document
    ],
)
def test_documents_are_cut_and_packed(model, tmp_path, corpora, capsys, settings, documents, report):
    options = [word for name, size in settings.items() for word in (f"--{name.replace('_', '-')}", size)]
    options += ["--freeze", 1, "--heldout", f"de={corpora['de']}"]
    assert tune(model, corpora["fr"], tmp_path / "out", *options) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"read: {report}\ntrained on {documents} documents, ")
    before = pml.perplexity(AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer(), corpora["de"], **settings)
    table = pandas.read_csv(tmp_path / "out" / "perplexity.csv", index_col="language")
    assert table.loc["de", "before"] == pytest.approx(before)


@pytest.mark.parametrize(
    "options, status, text",
    [
        ([], 2, "one of the arguments --neurons --random --freeze is required"),
        (["--neurons", "SET", "--random", "SET"], 2, "--random: not allowed with argument --neurons"),
        (["--freeze", "0", "--neurons", "SET"], 2, "--neurons: not allowed with argument --freeze"),
        (["--freeze", "-1"], 2, "--freeze: '-1' is not a whole number of at least 0"),
        (["--freeze", "1", "--heldout", "fr=fr.txt", "--heldout", "fr=fr.txt"], 2, "'fr' is given more than once"),
        (["--freeze", "1", "--texts", "de.txt"], 2, "--texts: given more than once, but only one file is read"),
        (["--freeze", "99"], 1, "--freeze 99: the model has 2 layers"),
        (["ON absent.txt", "--freeze", "1"], 1, "absent.txt: no such file"),
        (["--freeze", "1", "--heldout", "it=absent.txt"], 1, "absent.txt: no such file"),
        (["--freeze", "1", "--rate", "0"], 2, "--rate: '0' is not a number above 0"),
        (["ON blank.txt", "--freeze", "1"], 1, "the texts have no token to predict: texts 2, empty 2"),
        (["--neurons", "FOREIGN"], 1, "of another model: its ffn is 3 layers x 5 neurons, this model's 2 x 37"),
        (["--random", "FOREIGN"], 1, "of another model"),
        (["--neurons", "EMPTY"], 1, "the set has no neurons"),
        (["--neurons", "absent.safetensors"], 1, "absent.safetensors: no such file"),
        (["--neurons", "fr.txt"], 1, "fr.txt is not a set of neurons"),
    ],
)
def test_rejects_wrong_arguments(model, tmp_path, corpora, neurons, capsys, monkeypatch, options, status, text):
    monkeypatch.chdir(tmp_path)
    pml.NeuronSet({"ffn": torch.ones(3, 5, dtype=torch.bool)}).save("foreign.safetensors")
    (NEURONS - NEURONS).save("empty.safetensors")
    write_text(tmp_path / "blank.txt", ["", " "])
    before = [path.name for path in tmp_path.iterdir()]
    names = {"SET": neurons.name, "FOREIGN": "foreign.safetensors", "EMPTY": "empty.safetensors"}
    path = "fr.txt"
    if options and options[0].startswith("ON "):
        path, options = options[0].removeprefix("ON "), options[1:]
    assert tune(model, path, "out", *(names.get(word, word) for word in options)) == status
    assert_error_line(capsys, text)
    assert_folder_holds(tmp_path, *before)


def test_a_loss_that_is_not_finite_ends_the_command(model, tmp_path, corpora, capsys):
    options = ["--freeze", "0", "--rate", "1e30", "--epochs", "3"]
    assert tune(model, corpora["fr"], tmp_path / "out", *options) == 1
    assert_error_line(capsys, "the loss is nan; try a lower rate")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")
