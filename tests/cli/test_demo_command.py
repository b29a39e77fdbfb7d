"""`demo`: without its own neurons the demo model loses a language, and hardly any other."""

import json

import pandas
import pytest

import pymultiling as pml
from tests.support.command_line import assert_error_line, assert_folder_holds, run


@pytest.mark.long
def test_own_neurons_matter_to_their_language_only(tmp_path):
    """Each language's own neurons change its log-perplexity by at least 0.1, and by five times as much as they change
    the other languages, and as random neurons change it. The README shows the effect on more documents.
    """
    assert run("demo", "--out", tmp_path / "out", "--heldout", 6) == 0
    effect = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language").drop(index="mean")
    assert len(effect) == 8
    assert (effect["own"] >= 0.1).all(), effect
    assert (effect["own"] >= 5 * effect["others"]).all(), effect
    assert (effect["own"] >= 5 * effect["random"]).all(), effect


@pytest.mark.long
def test_prints_the_tables_and_writes_the_results(tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "out", "--documents", 1, "--heldout", 1) == 0
    printed = capsys.readouterr().out
    assert "random as hi" in printed and "own/others" in printed and "the demo took" in printed
    table = pandas.read_csv(tmp_path / "out" / "ablation.csv", index_col="language")
    assert table.loc["mean", "own"] > table.loc["mean", ["others", "random"]].max()
    assert set(json.loads((tmp_path / "out" / "run.json").read_text())["corpora"]) == set(pml.embedded.LANGUAGES)


def test_rejects_wrong_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("demo", "--documents", "many") == 2
    assert_error_line(capsys, "'many'")
    assert_folder_holds(tmp_path)
