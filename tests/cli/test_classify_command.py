import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch

import pymultiling as pml
from tests.support.command_line import assert_nothing_written, assert_one_sentence, run


def save_counts(folder: Path, languages=("fr", "de", "zh"), seed: int = 0, shape=(5, 80)) -> dict:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for language in languages:
        found[language] = pml.ActivationStatistics(torch.randint(0, 1000, shape, generator=generator), 1000)
        found[language].save(folder / f"{language}.safetensors")
    return found


def test_ternary(tmp_path, capsys):
    counts, out = save_counts(tmp_path / "counts"), tmp_path / "out"
    options = ["--top", "0.2", "--bar", "0.8", "--lambda", "0.1", "--scale", "paper"]
    assert run("classify", "--counts", tmp_path / "counts", "--out", out, *options) == 0
    counts = {
        language: counts[language] for language in sorted(counts)
    }  # a folder's files are in the order of their names
    truth = pml.ternary(counts, top=0.2, bar=0.8, lam=0.1, scale="paper")
    assert "lambda 0.1" in (printed := capsys.readouterr().out) and "shared space: layers" in printed
    for language, neurons in truth.neurons.items():
        assert pml.NeuronSet.load(out / "neurons" / f"{language}.safetensors") == neurons
    for kind in ("specific", "related", "general"):
        assert pml.NeuronSet.load(out / "kinds" / f"{kind}.safetensors") == getattr(truth, kind)
    assert pandas.read_csv(out / "histogram.csv").neurons.tolist() == truth.histogram
    assert pandas.read_csv(out / "by_layer.csv").equals(truth.by_layer())
    assert (out / "ternary.png").stat().st_size > 10_000
    assert json.loads((out / "run.json").read_text())["threshold"] == pytest.approx(truth.threshold)


def test_before_and_after(tmp_path, capsys):
    before, after = save_counts(tmp_path / "before", seed=1), save_counts(tmp_path / "after", seed=2)
    options = ["--top", "0.2", "--bar", "0.8", "--lambda", "0.1"]
    given = ["--counts", tmp_path / "after", "--before", tmp_path / "before"]
    assert run("classify", *given, "--out", tmp_path / "out", *options) == 0
    assert "before and after" in capsys.readouterr().out
    one, other = (pml.ternary(dict(sorted(counts.items())), top=0.2, bar=0.8, lam=0.1) for counts in (before, after))
    kinds = pandas.read_csv(tmp_path / "out" / "change_kinds.csv", index_col=0)
    assert kinds.loc["specific", "before"] == len(one.specific) and kinds.loc["specific", "after"] == len(
        other.specific
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"change.png", "change_layers.csv", "change_histogram.csv", "change_languages.csv"} <= names


def test_few_layers_have_no_parts(tmp_path, capsys):
    save_counts(tmp_path / "counts", shape=(2, 80))
    assert (
        run("classify", "--counts", tmp_path / "counts", "--out", tmp_path / "out", "--lambda", "0", "--top", "0.2")
        == 0
    )
    assert "understanding" not in capsys.readouterr().out


def test_lape(tmp_path, capsys):
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
    "more, words",
    [
        (["--method", "lape", "--before", "x"], "--before: not allowed with --method lape"),
        (["--method", "lape", "--lambda", "0.1"], "not allowed with --method lape"),
        (["--top", "1"], "'1' is not a fraction"),
        (["--lambda", "much"], "'much' is neither a number nor auto"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, more, words):
    assert run("classify", "--counts", tmp_path, "--out", tmp_path / "out", *more) == 2
    assert_one_sentence(capsys, words)


def test_wrong_counts(tmp_path, capsys):
    assert run("classify", "--counts", tmp_path, "--out", tmp_path / "out") == 1
    assert_one_sentence(capsys, tmp_path, "that count wrote")
    save_counts(tmp_path / "one", languages=("fr",))
    assert run("classify", "--counts", tmp_path / "one", "--out", tmp_path / "out") == 1
    assert_one_sentence(capsys, "language")
    save_counts(tmp_path / "wide", languages=("de",), shape=(5, 81))
    given = ["--counts", tmp_path / "one", "--counts", tmp_path / "wide"]
    assert run("classify", *given, "--out", tmp_path / "out") == 1
    assert_one_sentence(capsys, "fr has 5 layers x 80 neurons, de 5 x 81")
    for name in ("../x", "a/b", "", ".a"):
        given = ["--counts", f"{name}={tmp_path / 'one' / 'fr.safetensors'}", "--counts", tmp_path / "one"]
        assert run("classify", *given, "--out", tmp_path / "out") == 1
        assert_one_sentence(capsys, f"{name!r} cannot name a file")
    save_counts(tmp_path / "equal", seed=3)
    for one in (tmp_path / "equal").iterdir():  # neurons that are all alike are all general
        pml.ActivationStatistics(torch.tensor([[9] * 4 + [1] * 76] * 5), 10).save(one)
    assert run("classify", "--counts", tmp_path / "equal", "--out", tmp_path / "out", "--bar", "0.9") == 1
    assert_one_sentence(capsys, "--counts: lam=")
    shutil.rmtree(tmp_path / "equal")
    pml.NeuronSet({"ffn": torch.ones(1, 2, dtype=torch.bool)}).save(tmp_path / "set.safetensors")
    assert run("classify", "--counts", f"fr={tmp_path / 'set.safetensors'}", "--out", tmp_path / "out") == 1
    assert_one_sentence(capsys, "counts of activations")
    assert_nothing_written(tmp_path, "one", "wide", "set.safetensors")
