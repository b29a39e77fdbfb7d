import json

import pandas
import pytest
import torch

import pymultiling as pml
from pymultiling.results.run import file_hash
from tests.support.command_line import assert_error_line, assert_folder_holds, detect, run
from tests.support.graph_recorder import graphs_on_the_cpu
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import save_model, texts, write_text


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "jsonl", "jsonl.gz", "parquet"])
def test_writes_sets_statistics_and_tables_for_every_kind_of_file(model, tmp_path, capsys, ending):
    corpora = {name: write_text(tmp_path / f"{name}.{ending}", texts(name)) for name in ("fr", "de")}
    out = tmp_path / "new" / "out"
    assert detect(model, corpora, out, "--ffn", "0.2", "--attention", "3", "--share", "0.5", "--sites", "q,ffn") == 0
    printed = capsys.readouterr()
    assert "fr: 6 documents, 49 tokens; texts 6" in printed.out
    assert "fr: measuring (1 of 2): 6 documents" in printed.err and "Loading" not in printed.err
    assert {path.name for path in out.iterdir()} == {
        "neurons", "specific", "statistics", "neurons.png", "specific.png", "report.csv", "run.json",
        "overlap.csv", "jaccard.csv", "overlap.png", "texts.csv", "report.html",
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
        language_report = report[report.language == language]
        assert (language_report.selected.sum(), language_report.specific.sum()) == (len(neurons), len(specific))
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == {
        "name": str(model), "revision": None, "type": "llama", "dtype": "float32", "loader": "AutoModelForCausalLM"
    }  # fmt: skip
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["corpora"]["fr"]["sha256"]) == 64
    assert record["arguments"]["share"] == 0.5 and record["device"] == "cpu" and record["seed"] is None
    assert {"hash", "load", "detect", "write", "total"} == set(record["seconds"])
    assert_folder_holds(out.parent, "out")


def test_records_the_hash_of_a_pattern_with_one_file(model, tmp_path, corpora):
    corpora["fr"] = f"{tmp_path}/f*.txt"
    assert detect(model, corpora, tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["corpora"]["fr"]["sha256"] == file_hash(tmp_path / "fr.txt")


def test_threshold_selects_what_the_rule_selects_from_the_statistics(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--threshold", "0.001", "--rope", "post", "--pack", "8") == 0
    neurons = pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors")
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert neurons == pml.Threshold(0.001).select(statistics)


def test_qk_fast_is_recorded_in_the_statistics(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out", "--qk", "fast") == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["qk"] == "fast"
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert "q and k estimated" in statistics.rule


def test_graphs_change_no_value(model, tmp_path, corpora):
    """With a stand-in for CUDA graphs on the CPU."""
    options = ("--pack", "8", "--batch-tokens", "16")
    assert detect(model, corpora, tmp_path / "plain", *options) == 0
    with graphs_on_the_cpu() as recordings:
        assert detect(model, corpora, tmp_path / "graphs", "--graphs", *options) == 0
    assert recordings.replays > 0
    assert json.loads((tmp_path / "graphs" / "run.json").read_text())["arguments"]["graphs"] is True
    for language in corpora:
        name = f"statistics/{language}.safetensors"
        assert file_hash(tmp_path / "plain" / name) == file_hash(tmp_path / "graphs" / name)


def test_reports_texts_that_are_empty_replaced_or_cut(model, tmp_path, corpora, capsys):
    with corpora["fr"].open("ab") as file:
        file.write(b"\n   \nw3\nw4 \xff w5\n" + b"w6 " * 100)
    assert detect(model, corpora, tmp_path / "out", "--max-length", "999") == 0
    assert "texts 11, empty 2, replaced 1, cut 1" in capsys.readouterr().out
    statistics = pml.NeuronStatistics.load(tmp_path / "out" / "statistics" / "fr.safetensors")
    assert statistics.documents == 9
    assert statistics.tokens == 49 + 2 + 4 + 64  # cut to the model's 64 positions


BAD_CORPORA = {
    "empty": ("fr.txt", b"", "nothing was read"),
    "blank": ("fr.txt", b"\n \n", "has no documents"),
    "binary": ("fr.txt", b"\x7fELF\x00\x01\n", "binary"),
    "no gzip": ("fr.txt.gz", b"plain", "cannot be read"),
    "cut gzip": ("fr.txt.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b", "cannot be read"),
    "no json": ("fr.jsonl", b"w3 w4\n", "line 1 is not JSON"),
    "other json": ("fr.jsonl", b'{"content": "w3"}\n', "line 1"),
    "no parquet": ("fr.parquet", b"PAR1", "parquet"),
    "unknown ending": ("fr.docx", b"w3", ".jsonl"),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
def test_rejects_corpora_that_cannot_be_read(model, tmp_path, corpora, capsys, case):
    name, content, text = BAD_CORPORA[case]
    (tmp_path / name).write_bytes(content)
    assert detect(model, {"de": corpora["de"], "fr": tmp_path / name}, tmp_path / "out") == 1
    assert_error_line(capsys, "fr", text)
    state = {"out"} if case in ("empty", "blank") else set()  # that of the other language, which was measured before
    assert_folder_holds(tmp_path, *{"de.txt", "fr.txt", name}, *state)


def test_an_empty_corpus_can_be_filled_and_the_other_language_is_not_measured_again(model, tmp_path, corpora, capsys):
    lines = corpora["fr"].read_text()
    corpora["fr"].write_text("\n")
    files = {"de": corpora["de"], "fr": corpora["fr"]}
    assert detect(model, files, tmp_path / "out") == 1
    corpora["fr"].write_text(lines)
    assert detect(model, files, tmp_path / "out") == 0
    assert f"de: 6 documents, from {tmp_path / 'out' / 'checkpoint'}" in capsys.readouterr().err


def test_rejects_a_missing_corpus(model, tmp_path, corpora, capsys):
    assert detect(model, {"fr": tmp_path / "absent.txt"}, tmp_path / "out") == 1
    assert_error_line(capsys, tmp_path / "absent.txt", "no such file")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")


def test_the_message_of_a_nan_weight_names_site_and_layer(tmp_path, corpora, capsys):
    broken = tiny_model("llama")
    broken.model.layers[1].mlp.up_proj.weight.data[5, 3] = torch.nan
    folder = save_model(tmp_path / "model", broken)
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "fr", "site ffn", "layer 1")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt", "model")


@pytest.mark.parametrize(
    "arguments, text",
    [
        ([], "--corpus"),
        (["--corpus", "fr"], "NAME=FILE"),
        (["--corpus", "../fr=a.txt"], "as a file name"),
        (["--corpus", "fr=a.txt", "--corpus", "fr=b.txt"], "more than once"),
        (["--corpus", "fr=a.txt", "--sites", "ffn,z"], "unknown site 'z'"),
        (["--corpus", "fr=a.txt", "--pack", "-1"], "nor none"),
        (["--corpus", "fr=a.txt", "--ffn", "1.5"], "ffn must be"),
        (["--corpus", "fr=a.txt", "--ffn", "few"], "neither a fraction"),
        (["--corpus", "fr=a.txt", "--ffn", "1", "--threshold", "1"], "--ffn"),
    ],
)
def test_rejects_wrong_arguments_in_one_line(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert run("detect", "--model", "m", "--out", "o", *arguments) == 2
    assert len(assert_error_line(capsys, text).splitlines()) == 1
    assert_folder_holds(tmp_path)
