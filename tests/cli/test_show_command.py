import io
import os
import shutil
import subprocess
import sys

import pandas
import pytest
import torch

import pymultiling as pml
from tests.support.command_line import assert_error_line, run

LAYERS, WIDTHS, DOCUMENTS = 3, {"ffn": 40, "v": 20}, 4


@pytest.fixture
def found(tmp_path):
    """Folders as `detect` writes them, with the sets "de" and "fr"."""
    for seed, name in enumerate(("de", "fr")):
        generator = torch.Generator().manual_seed(seed)
        values = {site: torch.rand(DOCUMENTS, LAYERS, width, generator=generator) for site, width in WIDTHS.items()}
        rule = pml.TopK(0.2, 0.2)
        statistics = pml.NeuronStatistics.of_counts(values, *rule.count(values), 99, rule.rule())
        for folder in ("specific", "statistics"):
            (tmp_path / folder).mkdir(exist_ok=True)
        statistics.save(tmp_path / "statistics" / f"{name}.safetensors")
        pml.TopK(0.2, 0.2, share=0.5).select(statistics).save(tmp_path / "specific" / f"{name}.safetensors")
    return tmp_path


def printed_csv(capsys) -> pandas.DataFrame:
    return pandas.read_csv(io.StringIO(capsys.readouterr().out))


def test_csv_has_every_neuron_with_its_mean_importance_and_votes(found, capsys):
    assert run("show", found, "--csv", "-") == 0
    table = printed_csv(capsys)
    assert list(table.columns) == ["set", "layer", "site", "index", "score", "votes"]
    for name, rows in table.groupby("set"):
        neurons = pml.NeuronSet.load(found / "specific" / f"{name}.safetensors")
        statistics = pml.NeuronStatistics.load(found / "statistics" / f"{name}.safetensors")
        assert len(rows) == len(neurons) > 5
        for row in rows.itertuples():
            assert neurons.sites[row.site][row.layer, row.index]
            assert row.score == pytest.approx(statistics.sum[row.site][row.layer, row.index].item() / DOCUMENTS)
            assert row.votes == statistics.votes[row.site][row.layer, row.index].item() / DOCUMENTS >= 0.5
        for _, of_site in rows.groupby("site"):
            assert of_site["score"].is_monotonic_decreasing


def test_text_has_counts_by_layer_and_site_and_the_top_neurons(found, capsys):
    assert run("show", found / "specific" / "fr.safetensors", "--top", "2") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    neurons = pml.NeuronSet.load(found / "specific" / "fr.safetensors")
    assert lines[0] == ["fr:", str(len(neurons)), "neurons"]
    assert lines[1] == ["ffn", "v", "total"]
    by_layer = neurons.count("layer")
    counts = [[by_layer["ffn"][layer], by_layer["v"][layer]] for layer in range(LAYERS)]
    counts.append([sum(column) for column in zip(*counts)])
    for line, name, row in zip(lines[3:], ("0", "1", "2", "total"), counts):
        assert line == [name, *map(str, row), str(sum(row))]
    assert lines[8] == ["layer", "site", "index", "score", "votes"]
    assert [line[1] for line in lines[9:]] == ["ffn", "ffn", "v", "v"]


def test_sets_without_statistics_are_listed_in_order(found, capsys):
    shutil.rmtree(found / "statistics")
    assert run("show", f"x={found / 'specific' / 'fr.safetensors'}", "--csv", found / "x.csv") == 0
    table = pandas.read_csv(found / "x.csv")
    assert f"{len(table)} neurons are in {found / 'x.csv'}" in capsys.readouterr().out
    assert list(table.columns) == ["set", "layer", "site", "index"] and set(table["set"]) == {"x"}
    members = pml.NeuronSet.load(found / "specific" / "fr.safetensors").sites["v"].nonzero().tolist()
    assert table[table.site == "v"][["layer", "index"]].to_numpy().tolist() == members


def test_an_empty_set_is_shown(tmp_path, capsys):
    pml.NeuronSet({"ffn": torch.zeros(1, 4, dtype=torch.bool)}).save(tmp_path / "empty.safetensors")
    assert run("show", tmp_path / "empty.safetensors") == 0
    assert "empty: 0 neurons" in capsys.readouterr().out
    assert run("show", tmp_path / "empty.safetensors", "--csv", "-") == 0
    assert capsys.readouterr().out == "set,layer,site,index\n"


def test_statistics_of_another_model_and_other_files_are_refused(found, capsys):
    pml.NeuronStatistics.of_nothing({"ffn": 5}, 3, "a rule").save(found / "statistics" / "fr.safetensors")
    assert run("show", found) == 1
    assert_error_line(capsys, "fr.safetensors: the statistics have no values for these neurons of ffn")
    assert run("show", found / "absent") == 1
    assert_error_line(capsys, "neither NAME=FILE nor a folder")
    assert run("show", found / "statistics" / "de.safetensors") == 1
    assert_error_line(capsys, "expected a set of neurons")


@pytest.mark.parametrize("options", [(), ("--csv", "-")])
def test_an_output_that_its_reader_closes_is_no_error(found, options):
    """As `| head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "pymultiling", "show", found / "specific" / "fr.safetensors", *options]
    try:
        done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
