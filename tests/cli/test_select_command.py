import json
import shutil
from dataclasses import replace

import pytest

import pymultiling as pml
from tests.support.command_line import assert_error_line, assert_folder_holds, detect, run
from tests.support.published_runs import file_contents
from tests.support.tiny_text import texts, write_text


@pytest.fixture(scope="module")
def first_run(model, tmp_path_factory):
    """A run of `detect` with the top 30%, which `NeuronStatistics.top` does not count."""
    folder = tmp_path_factory.mktemp("run")
    corpora = {name: write_text(folder / f"{name}.txt", texts(name)) for name in ("fr", "de")}
    assert detect(model, corpora, folder / "found", "--fraction", "0.3", "--share", "0.5") == 0
    return folder / "found"


@pytest.fixture
def found(first_run, tmp_path):
    return shutil.copytree(first_run, tmp_path / "found")


def without_record(folder) -> dict[str, bytes]:
    """Returns the files of a folder but for those that say when and how it was made."""
    return {name: x for name, x in file_contents(folder).items() if name not in ("run.json", "report.html")}


@pytest.mark.parametrize("rule", [("--ffn", "0.1", "--attention", "0.05", "--share", "0.5"), ("--threshold", "0.001")])
def test_writes_what_detect_writes_with_the_same_rule(model, tmp_path, corpora, found, rule, capsys):
    """All files but run.json, the report and the statistics, whose votes are those of another rule."""
    assert detect(model, corpora, tmp_path / "truth", *rule) == 0
    assert run("select", found, *rule, "--out", tmp_path / "out") == 0
    truth, written = without_record(tmp_path / "truth"), without_record(tmp_path / "out")
    assert truth.keys() == written.keys()
    for name, content in written.items():
        expected = found if name.startswith("statistics/") else tmp_path / "truth"
        assert content == (expected / name).read_bytes(), name
    assert "fr: 6 documents, 49 tokens" in capsys.readouterr().out


def test_run_json_has_the_rule_and_the_model_and_texts_of_the_earlier_run(tmp_path, found):
    assert run("select", found / "statistics", "--fraction", "0.1", "--out", tmp_path / "out") == 0
    record, earlier = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / "out", found))
    assert record["rule"] == "top-k, ffn 0.1, attention 0.1"
    assert {name: record[name] for name in ("model", "corpora", "texts")} == {
        name: earlier[name] for name in ("model", "corpora", "texts")
    }
    again = ("--config", tmp_path / "out" / "run.json", "--out", tmp_path / "again")
    assert run(*again) == 0
    assert without_record(tmp_path / "again") == without_record(tmp_path / "out")


def test_any_fraction_can_be_selected_by_the_mean(tmp_path, found):
    (found / "run.json").unlink()
    assert run("select", found, "--mean", "--ffn", "0.07", "--attention", "2", "--out", tmp_path / "out") == 0
    statistics = pml.NeuronStatistics.load(found / "statistics" / "fr.safetensors")
    neurons = pml.load_sets(tmp_path / "out" / "neurons")["fr"]
    assert neurons == pml.TopMean(0.07, 2).select(statistics) and len(neurons)


def test_what_the_statistics_do_not_count_is_refused_with_what_they_count(tmp_path, found, capsys):
    assert run("select", found, "--fraction", "0.25", "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "0.005, 0.01, 0.02, 0.05, 0.1, 0.2", "TopMean")
    for file in (found / "statistics").iterdir():
        replace(pml.NeuronStatistics.load(file), top={}).save(file)
    assert run("select", found, "--fraction", "0.01", "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "as earlier versions do")
    assert not (tmp_path / "out").exists()


def test_statistics_of_different_models_are_refused(tmp_path, found, capsys):
    pml.NeuronStatistics.of_nothing({"ffn": 5}, 3, "a rule").save(found / "statistics" / "de.safetensors")
    assert run("select", found, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "of different models or sites", "de and fr")


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--mean", "--share", "0.5"], "--mean: not allowed with --share"),
        (["--mean", "--threshold", "0.5"], "--mean: not allowed with --threshold"),
        (["--fraction", "0.5", "--ffn", "0.5"], "--fraction: not allowed with --ffn"),
        (["--fraction", "0.5", "--threshold", "1"], "--threshold: not allowed with --fraction"),
        (["--mean", "--ffn", "1.5"], "ffn must be"),
        (["--fraction", "2"], "not a fraction"),
        (["--share", "2"], "share must be"),
    ],
)
def test_rejects_options_that_contradict_each_other_or_are_out_of_range(tmp_path, capsys, arguments, text):
    assert run("select", tmp_path / "absent", *arguments, "--out", tmp_path / "out") == 2
    assert_error_line(capsys, text)
    assert_folder_holds(tmp_path)


def test_rejects_a_folder_without_statistics(tmp_path, capsys):
    assert run("select", tmp_path, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, tmp_path, "files that detect wrote")
