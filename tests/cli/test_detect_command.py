import json

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.results.run import file_hash
from tests.support.command_line import assert_nothing_written, detect
from tests.support.tiny_text import texts, write_text


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"])
def test_detect(model, tmp_path, capsys, ending):
    corpora = {name: write_text(tmp_path / f"{name}.{ending}", texts(name)) for name in ("fr", "de")}
    out = tmp_path / "new" / "out"
    assert detect(model, corpora, out, "--ffn", "0.2", "--attention", "3", "--share", "0.5", "--sites", "q,ffn") == 0
    printed = capsys.readouterr()
    assert "fr: 6 documents, 49 tokens; texts 6" in printed.out
    assert "fr: measuring: 6 documents" in printed.err and "Loading" not in printed.err
    assert {path.name for path in out.iterdir()} == {
        "neurons", "specific", "statistics", "neurons.png", "specific.png", "report.csv", "run.json",
        "overlap.csv", "jaccard.csv", "overlap.png",
    }  # fmt: skip
    report = pandas.read_csv(out / "report.csv")
    assert list(report.columns) == ["language", "site", "layer", "selected", "specific"]
    for language in corpora:
        neurons = pml.NeuronSet.load(out / "neurons" / f"{language}.safetensors")
        specific = pml.NeuronSet.load(out / "specific" / f"{language}.safetensors")
        statistics = pml.NeuronStatistics.load(out / "statistics" / f"{language}.safetensors")
        assert list(neurons.sites) == ["ffn", "q"]
        assert neurons == pml.TopK(0.2, 3, 0.5).select(statistics)
        assert len(specific - neurons) == 0
        of_language = report[report.language == language]
        assert (of_language.selected.sum(), of_language.specific.sum()) == (len(neurons), len(specific))
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == {"name": str(model), "revision": None, "type": "llama", "dtype": "float32"}
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["corpora"]["fr"]["sha256"]) == 64
    assert record["arguments"]["share"] == 0.5 and record["device"] == "cpu" and record["seed"] is None
    assert {"hash", "load", "detect", "write", "total"} == set(record["seconds"])
    assert_nothing_written(out.parent, "out")


def test_a_pattern_may_name_one_file(model, tmp_path, corpora):
    corpora["fr"] = f"{tmp_path}/f*.txt"
    assert detect(model, corpora, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["corpora"]["fr"]["sha256"] == file_hash(tmp_path / "fr.txt")


def test_detect_by_threshold(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--threshold", "0.001", "--rope", "post", "--pack", "8") == 0
    neurons = pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors")
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert neurons == pml.Threshold(0.001).select(statistics)


def test_detect_with_estimated_q_and_k(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--qk", "fast") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["qk"] == "fast"
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert "q and k estimated" in statistics.rule


def test_what_became_of_texts_is_reported(model, tmp_path, corpora, capsys):
    with open(corpora["fr"], "ab") as file:
        file.write(b"\n   \nw3\nw4 \xff w5\n" + b"w6 " * 100)
    assert detect(model, corpora, tmp_path / "out", "--max-length", "999") == 0
    assert "texts 11, empty 2, replaced 1, cut 1" in capsys.readouterr().out
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert statistics.documents == 9
    assert statistics.tokens == 49 + 2 + 4 + 64  # cut to the model's 64 positions
