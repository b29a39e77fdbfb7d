"""--tokens of the commands that read corpora gives what tokens=N gives in Python, and says how many were taken."""

import json

import pytest
from transformers import AutoModelForCausalLM

import pymultiling as pml
from tests.support.command_line import SMALL_BATCHES, assert_error_line, detect, repeat, run
from tests.support.tiny_text import tiny_tokenizer


def test_detect(model, corpora, tmp_path, capsys):
    assert detect(model, corpora, tmp_path / "out", "--tokens", 24) == 0
    printed = capsys.readouterr()
    options = {"max_length": 16, "batch_tokens": 64, "tokens": 24, "progress": False}
    truth = pml.detect(AutoModelForCausalLM.from_pretrained(model), tiny_tokenizer(), corpora, **options)
    found = pml.Detection.load(tmp_path / "out")
    assert found.neurons == truth.neurons and found.corpora == truth.corpora
    for language, statistics in found.statistics.items():
        assert (statistics.documents, statistics.tokens) == (3, 23)
        assert f"{language}: 23 tokens were taken, of at most 24" in printed.err
        assert f"{language}: 3 documents, 23 tokens; texts 3" in printed.out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]["tokens"] == 24


@pytest.mark.parametrize("everything", ["all", "0"])
def test_all_or_0_takes_the_whole_corpus(model, corpora, tmp_path, capsys, everything):
    assert detect(model, corpora, tmp_path / "out", "--tokens", everything) == 0
    printed = capsys.readouterr()
    assert "fr: 6 documents, 49 tokens; texts 6" in printed.out and "were taken" not in printed.err


def test_other_commands(model, corpora, tmp_path, capsys):
    words = ["--model", model, *SMALL_BATCHES, "--tokens", 12]
    assert run("count", *words, *repeat("--corpus", corpora), "--out", tmp_path / "counted") == 0
    assert pml.ActivationStatistics.load(tmp_path / "counted" / "counts" / "fr.safetensors").tokens == 10
    capsys.readouterr()
    assert detect(model, corpora, tmp_path / "found", "--share", 0.5) == 0
    capsys.readouterr()
    options = ["--neurons", tmp_path / "found", *repeat("--texts", corpora), "--out", tmp_path / "ablated"]
    assert run("ablate", *words, *options) == 0
    assert "fr: 9 tokens were taken, of at most 12" in capsys.readouterr().err


def test_tune_trains_on_the_first_documents(model, corpora, tmp_path, capsys):
    pytest.importorskip("accelerate")
    words = ["--model", model, *SMALL_BATCHES, "--tokens", 15, "--texts", corpora["fr"], "--freeze", 1]
    assert run("tune", *words, "--out", tmp_path / "tuned") == 0
    assert "trained on 2 documents" in capsys.readouterr().out
    assert run("tune", *words, "--documents", 1, "--out", tmp_path / "less") == 0
    assert "trained on 1 documents" in capsys.readouterr().out


def test_lens_decodes_the_first_documents(model, corpora, tmp_path, capsys):
    pytest.importorskip("lingua")
    words = ["--model", model, *SMALL_BATCHES, "--tokens", 15, "--texts", f"fr={corpora['fr']}"]
    assert run("lens", *words, "--languages", "en,fr", "--out", tmp_path / "decoded") == 0
    assert "fr: texts 2" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["-1", "1.5", "some"])
def test_other_values_are_refused(model, corpora, tmp_path, capsys, value):
    assert detect(model, corpora, tmp_path / "out", f"--tokens={value}") == 2
    assert_error_line(capsys, f"argument --tokens: '{value}' is not a whole number of at least 1, nor all")
