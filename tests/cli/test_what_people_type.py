"""What people type: near misses get a suggestion, folders of runs are taken, and files are read before the model."""

import io
import json
import sys
import time

import pandas
import pytest

from pymultiling.models import loading
from tests.support.command_line import SMALL_BATCHES, assert_error_line, detect, repeat, run
from tests.support.tiny_text import texts, write_text


@pytest.fixture
def no_loading(monkeypatch):
    """Fails the test if a model is loaded: what is wrong with the files has to be said before."""
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("the model was loaded first"))


@pytest.fixture(scope="module")
def detected(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("detected")
    corpora = {name: write_text(folder / f"{name}.txt", texts(name)) for name in ("fr", "de")}
    assert detect(model, corpora, folder / "found", "--share", 0.5) == 0
    return folder / "found"


@pytest.mark.parametrize(
    "words, suggestion",
    [
        (["detct"], "did you mean detect?"),
        (
            ["detect", "--corpus", "fr=fr.txt", "--model", "a", "--out", "b", "--treshold", "1"],
            "did you mean --threshold?",
        ),
        (["classify", "--counts", "a", "--out", "b", "--method", "tenary"], "did you mean ternary?"),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(words, suggestion, capsys):
    assert run(*words) == 2
    assert_error_line(capsys, suggestion)


def test_the_folder_of_a_run_stands_for_its_specific_sets(detected, model, corpora, tmp_path, capsys):
    options = [*repeat("--texts", corpora), "--model", model, *SMALL_BATCHES]
    assert run("ablate", "--neurons", detected, *options, "--out", tmp_path / "run") == 0
    assert f"of {detected} the files in {detected / 'specific'} are read" in capsys.readouterr().err
    assert run("ablate", "--neurons", detected / "specific", *options, "--out", tmp_path / "sets") == 0
    tables = [pandas.read_csv(tmp_path / name / "perplexity.csv") for name in ("run", "sets")]
    pandas.testing.assert_frame_equal(*tables)


def test_the_folder_of_a_run_stands_for_its_counts(model, corpora, tmp_path):
    assert (
        run("count", *repeat("--corpus", corpora), "--model", model, *SMALL_BATCHES, "--out", tmp_path / "counted") == 0
    )
    assert (
        run("classify", "--counts", tmp_path / "counted", "--top", 0.5, "--lambda", 0, "--out", tmp_path / "kinds") == 0
    )


def test_texts_without_a_set_of_their_name_are_named(detected, model, corpora, tmp_path, capsys):
    options = ["--neurons", detected, "--model", model, *SMALL_BATCHES, "--out", tmp_path / "effect"]
    assert run("ablate", "--texts", f"ge={corpora['de']}", "--texts", f"fra_Latn={corpora['fr']}", *options) == 0
    printed = capsys.readouterr().err
    assert "no set of neurons is called 'ge'" in printed and "the sets are de, fr; did you mean de?" in printed
    assert "is called 'fra_Latn'" in printed and "the sets are de, fr; did you mean fr?" in printed


def test_one_file_for_two_languages_is_refused(no_loading, model, corpora, tmp_path, capsys):
    assert detect(model, {"fr": corpora["fr"], "de": corpora["fr"]}, tmp_path / "out") == 1
    assert_error_line(capsys, "fr and de have the same texts", "give each language a file of its own")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("no.txt", None, "no such file"),
        ("fr.jsonl", '{"body": "a"}\n', "'text'"),
        ("fr.csv", "a\n", "expected a .txt"),
    ],
)
def test_files_are_read_before_the_model_is_loaded(name, content, message, no_loading, model, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_text(content)
    for command in ("detect", "count"):
        assert run(command, "--corpus", f"fr={tmp_path / name}", "--model", model, "--out", tmp_path / "out") == 1
        assert_error_line(capsys, name, message)


def test_mwork_needs_its_pivot_language_before_the_model_is_loaded(
    no_loading, detected, model, corpora, tmp_path, capsys
):
    words = ["mwork", "--neurons", detected, *repeat("--text", corpora), "--search", "fr", "--model", model]
    assert run(*words, "--out", tmp_path / "out") == 1
    assert_error_line(capsys, "task continuation is in fr, de", "'en' in the task")


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.gguf", "missing.gguf: no such file; give the path of a file"),
        (
            "tiny.gguf",
            "tiny.gguf is a file of llama.cpp, which the package gguf reads: pip install 'pymultiling[gguf]'",
        ),
        ("adapter", "adapter is an adapter of PEFT: load it with peft's class for its task, such as AutoPeftModel"),
    ],
)
def test_files_that_hold_no_model_name_the_way_out(name, message, corpora, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pymultiling.models.loading.find_spec", lambda _: None)  # also where gguf is installed
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert detect(tmp_path / name, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, message)


def test_a_mistyped_model_is_named_in_seconds_without_network(corpora, tmp_path, capsys, monkeypatch):
    """The Hub's address leads nowhere. transformers alone asks it again and again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    started = time.monotonic()
    assert detect("Qwen/Qwen3-0.6", corpora, tmp_path / "out") == 1
    assert time.monotonic() - started < 10
    assert_error_line(
        capsys, "Qwen/Qwen3-0.6: there is no such folder", "the Hub cannot be reached", "check the spelling"
    )


def test_a_run_is_repeated_from_its_record(detected, model, tmp_path, capsys):
    """With another --out, which replaces the recorded one."""
    assert run("--config", detected / "run.json", "--out", tmp_path / "again") == 0
    assert run("detect", "--config", detected, "--out", tmp_path / "third", "--quiet") == 0
    for name in ("report.csv", "specific/fr.safetensors", "statistics/de.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (detected / name).read_bytes()
    records = [json.loads((folder / "run.json").read_text()) for folder in (detected, tmp_path / "again")]
    assert records[0]["arguments"].pop("out") != records[1]["arguments"].pop("out")
    assert records[0]["arguments"] == records[1]["arguments"]


def test_a_record_of_another_command_or_kind_is_refused(detected, tmp_path, capsys):
    assert run("ablate", "--config", detected / "run.json") == 2
    assert_error_line(capsys, "is of the command detect")
    (tmp_path / "run.json").write_text("{}")
    assert run("--config", tmp_path / "run.json") == 2
    assert_error_line(capsys, "is no run.json with a command line")


def test_quiet_prints_results_only_and_verbose_the_stages(model, corpora, tmp_path, capsys):
    assert detect(model, corpora, tmp_path / "out", "--quiet") == 0
    printed = capsys.readouterr()
    assert "results are in" in printed.out and printed.err == ""
    assert detect(model, corpora, tmp_path / "out", "--verbose") == 0
    assert "pymultiling detect: load: 0." in capsys.readouterr().err


def test_texts_come_from_stdin(model, corpora, tmp_path, monkeypatch):
    assert detect(model, corpora, tmp_path / "files") == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(corpora["fr"].read_bytes())))
    assert detect(model, {**corpora, "fr": "-"}, tmp_path / "stdin") == 0
    for name in ("report.csv", "neurons/fr.safetensors", "neurons/de.safetensors"):
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "stdin" / name).read_bytes()
    assert json.loads((tmp_path / "stdin" / "run.json").read_text())["corpora"]["fr"] == {"file": "-"}


def test_stdin_is_read_for_one_language(no_loading, model, tmp_path, capsys):
    assert detect(model, {"fr": "-", "de": "-"}, tmp_path / "out") == 2
    assert_error_line(capsys, "fr and de are both to be read from stdin")


def test_a_model_with_code_of_its_own_needs_consent(model, corpora, tmp_path, capsys):
    """The code defines a subclass of Llama, so the sets are those of the same model without it."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "mine.MyConfig", "AutoModelForCausalLM": "mine.MyModel"}
    config["model_type"] = "own-llama"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MyConfig(LlamaConfig):\n    model_type = 'own-llama'\n"
        "class MyModel(LlamaForCausalLM):\n    config_class = MyConfig\n"
    )
    families = tmp_path / "families.py"
    families.write_text(
        "import pymultiling\npymultiling.register_family('own-llama', pymultiling.Family(), replace=True)\n"
    )
    assert detect(folder, corpora, tmp_path / "out", "--families", families) == 1
    assert_error_line(capsys, f"{folder} needs Python code that comes with it", "--trust-remote-code")
    assert detect(folder, corpora, tmp_path / "out", "--families", families, "--trust-remote-code") == 0
    assert detect(model, corpora, tmp_path / "plain") == 0
    assert (tmp_path / "out/report.csv").read_bytes() == (tmp_path / "plain/report.csv").read_bytes()


def test_missing_kernels_are_said_first_with_the_way_to_build_them(model, corpora, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "pymultiling.ops.backends.load_extension", lambda name="_cpp": "the C++ extension was not built"
    )
    assert detect(model, corpora, tmp_path / "out") == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("pymultiling detect: plain PyTorch computes, which is much slower: the C++ extension")
    assert "run pip install --no-build-isolation " in first


def test_completion_needs_shtab(capsys):
    pytest.importorskip("shtab", reason="shtab is no requirement of the tests")
    assert run("--print-completion", "bash") == 0
    assert "--threshold" in capsys.readouterr().out
