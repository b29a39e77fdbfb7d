import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch

import pymultiling as pml
from tests.support.command_line import assert_error_line, assert_folder_holds, run


def save_counts(folder: Path, languages=("fr", "de", "zh"), seed: int = 0, shape=(5, 80)) -> dict:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    counts = {}
    for language in languages:
        counts[language] = pml.ActivationStatistics(torch.randint(0, 1000, shape, generator=generator), 1000)
        counts[language].save(folder / f"{language}.safetensors")
    return counts


def test_writes_the_kinds_that_ternary_finds(tmp_path, capsys):
    counts, out = save_counts(tmp_path / "counts"), tmp_path / "out"
    options = ["--top", "0.2", "--bar", "0.8", "--lambda", "0.1", "--scale", "paper"]
    assert run("classify", "--counts", tmp_path / "counts", "--out", out, *options) == 0
    counts = dict(sorted(counts.items()))  # the files of a folder are read in the order of their names
    truth = pml.ternary(counts, top=0.2, bar=0.8, lam=0.1, scale="paper")
    printed = capsys.readouterr().out
    assert printed.startswith("lambda 0.1; a neuron belongs") and "a proposal of what the layers do" in printed
    parts = pml.ternary_parts(truth.by_layer())
    assert sorted(map(len, parts.values())) == [1, 1, 1, 2]
    for name, layers in parts.items():
        expected = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]} to {layers[1]}"
        assert f"\n{name}: {expected}\n" in printed
    for language, neurons in truth.neurons.items():
        assert pml.NeuronSet.load(out / "neurons" / f"{language}.safetensors") == neurons
    for kind in ("specific", "related", "general"):
        assert pml.NeuronSet.load(out / "kinds" / f"{kind}.safetensors") == getattr(truth, kind)
    assert pandas.read_csv(out / "histogram.csv").neurons.tolist() == truth.histogram
    assert pandas.read_csv(out / "by_layer.csv").equals(truth.by_layer())
    assert (out / "ternary.png").stat().st_size > 10_000
    assert json.loads((out / "run.json").read_text())["threshold"] == pytest.approx(truth.threshold)


def test_says_that_lambda_was_chosen_so_that_no_neuron_is_general(tmp_path, capsys):
    counts = save_counts(tmp_path / "counts")
    assert run("classify", "--counts", tmp_path / "counts", "--out", tmp_path / "out") == 0
    truth = pml.ternary(counts)
    assert len(truth.general) == 0
    assert f"lambda {truth.lam:g}, the largest with which no general neuron is selected;" in capsys.readouterr().out


def test_compares_the_kinds_before_and_after(tmp_path, capsys):
    before, after = save_counts(tmp_path / "before", seed=1), save_counts(tmp_path / "after", seed=2)
    options = ["--top", "0.2", "--bar", "0.8", "--lambda", "0.1"]
    folders = ["--counts", tmp_path / "after", "--before", tmp_path / "before"]
    assert run("classify", *folders, "--out", tmp_path / "out", *options) == 0
    assert "before and after" in capsys.readouterr().out
    ternary_before, ternary_after = (
        pml.ternary(dict(sorted(counts.items())), top=0.2, bar=0.8, lam=0.1) for counts in (before, after)
    )
    kinds = pandas.read_csv(tmp_path / "out" / "change_kinds.csv", index_col=0)
    assert kinds.loc["specific", "before"] == len(ternary_before.specific)
    assert kinds.loc["specific", "after"] == len(ternary_after.specific)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"change.png", "change_layers.csv", "change_histogram.csv", "change_languages.csv", "report.html"} <= names


def test_a_model_of_few_layers_has_no_parts(tmp_path, capsys):
    save_counts(tmp_path / "counts", shape=(2, 80))
    options = ["--lambda", "0", "--top", "0.2"]
    assert run("classify", "--counts", tmp_path / "counts", "--out", tmp_path / "out", *options) == 0
    assert "understanding" not in capsys.readouterr().out


def test_writes_the_sets_that_lape_finds(tmp_path, capsys):
    counts, out = dict(sorted(save_counts(tmp_path / "counts").items())), tmp_path / "out"
    assert run("classify", "--counts", tmp_path / "counts", "--method", "lape", "--top", "0.1", "--out", out) == 0
    truth = pml.lape(counts, top=0.1)
    assert pml.NeuronSet.from_lape(out / "lape.pth", 80) == list(truth.values())
    printed = capsys.readouterr().out
    for language, neurons in truth.items():
        assert pml.NeuronSet.load(out / "neurons" / f"{language}.safetensors") == neurons
        assert f"{language}: {len(neurons)} neurons" in printed
    assert (out / "neurons.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "options, text",
    [
        (["--method", "lape", "--before", "x"], "--before: not allowed with --method lape"),
        (["--method", "lape", "--lambda", "0.1"], "not allowed with --method lape"),
        (["--top", "1"], "'1' is not a fraction"),
        (["--lambda", "much"], "'much' is neither a number nor auto"),
    ],
)
def test_rejects_wrong_arguments(tmp_path, capsys, options, text):
    assert run("classify", "--counts", tmp_path, "--out", tmp_path / "out", *options) == 2
    assert_error_line(capsys, text)


def test_rejects_counts_that_cannot_be_used(tmp_path, capsys):
    assert run("classify", "--counts", tmp_path, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, tmp_path, "that count wrote")
    save_counts(tmp_path / "one", languages=("fr",))
    assert run("classify", "--counts", tmp_path / "one", "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "language")
    save_counts(tmp_path / "wide", languages=("de",), shape=(5, 81))
    counts = ["--counts", tmp_path / "one", "--counts", tmp_path / "wide"]
    assert run("classify", *counts, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "fr has 5 layers x 80 neurons, de 5 x 81")
    for name in ("../x", "a/b", "", ".a"):
        counts = ["--counts", f"{name}={tmp_path / 'one' / 'fr.safetensors'}", "--counts", tmp_path / "one"]
        assert run("classify", *counts, "--out", tmp_path / "out") == 1
        assert_error_line(capsys, f"{name!r} cannot be used as a file name")
    save_counts(tmp_path / "equal", seed=3)
    for file in (tmp_path / "equal").iterdir():  # with equal counts in all languages, every selected neuron is general
        pml.ActivationStatistics(torch.tensor([[9] * 4 + [1] * 76] * 5), 10).save(file)
    assert run("classify", "--counts", tmp_path / "equal", "--out", tmp_path / "out", "--bar", "0.9") == 1
    assert_error_line(capsys, "--counts: lam=")
    shutil.rmtree(tmp_path / "equal")
    pml.NeuronSet({"ffn": torch.ones(1, 2, dtype=torch.bool)}).save(tmp_path / "set.safetensors")
    assert run("classify", "--counts", f"fr={tmp_path / 'set.safetensors'}", "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "counts of activations")
    assert_folder_holds(tmp_path, "one", "wide", "set.safetensors")
