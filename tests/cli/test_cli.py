import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

import pymultiling as pml
from pymultiling.models.families import FAMILIES
from pymultiling.probes.importance import ImportanceProbe
from tests.support.command_line import SMALL_BATCHES, assert_error_line, assert_folder_holds, detect, run
from tests.support.tiny_text import save_model


def test_replaces_the_results_of_an_earlier_run(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out") == 0
    assert detect(model, corpora, tmp_path / "out", "--sites", "ffn") == 0
    assert list(pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors").sites) == ["ffn"]
    assert_folder_holds(tmp_path, "out", "fr.txt", "de.txt")


def test_replaces_earlier_results_in_a_folder_with_the_name_of_the_command(model, tmp_path, corpora, monkeypatch):
    """The command's name is not taken for a path that the command reads."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert detect(model, corpora, "detect") == 0


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device", "a.png"), RuntimeError("odd")]
)
def test_a_run_that_fails_while_writing_changes_no_file(model, tmp_path, corpora, capsys, monkeypatch, error):
    assert detect(model, corpora, tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(figure, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("pymultiling.results.plots.save", fail)
    assert detect(model, corpora, tmp_path / "out") == (130 if error is KeyboardInterrupt else 1)
    texts = {"KeyboardInterrupt": "interrupted", "OSError": "No space left", "RuntimeError": "--debug"}
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    assert texts[name] in capsys.readouterr().err.splitlines()[-1]
    state = tmp_path / "out" / "checkpoint"  # what was measured before the error
    assert list(state.rglob("*.json"))
    shutil.rmtree(state)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_message_of_an_interrupt_says_how_to_continue(model, tmp_path, corpora, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    checkpoint = ["--checkpoint", tmp_path / "state"]
    with monkeypatch.context() as patch:
        patch.setattr("pymultiling.results.plots.save", interrupt)
        assert detect(model, corpora, tmp_path / "out", *checkpoint) == 130
    continues = f"run the same command again to continue from {tmp_path / 'state'}"
    assert_error_line(capsys, f"no results were written; {continues}")
    assert detect(model, corpora, tmp_path / "out", *checkpoint) == 0
    assert_folder_holds(tmp_path, "out", "state", "fr.txt", "de.txt")


def test_the_message_of_a_full_disk_names_the_file(model, tmp_path, corpora, capsys, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("pymultiling.runtime.storage.save_file", full)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "fr.safetensors cannot be read or written: I/O error: No space left on device")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")


def test_families_registers_families_before_the_command_runs(model, tmp_path, corpora, capsys, monkeypatch):
    without_llama = {name: family for name, family in FAMILIES.items() if name != "llama"}
    monkeypatch.setattr("pymultiling.models.families.FAMILIES", without_llama)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "register_family('llama', ", "on the command line in a file for --families")
    families_file = tmp_path / "families.py"
    for content, text in (
        ("1 / 0", "ZeroDivisionError: division by zero; correct this Python file"),
        ("import absent_package", "absent_package"),
        ("assert False", "AssertionError; correct this Python file"),
    ):
        families_file.write_text(content)
        assert detect(model, corpora, tmp_path / "out", "--families", families_file) == 1
        assert_error_line(capsys, f"--families {families_file}: ", text)
    families_file.write_text("import pymultiling as pml\npml.register_family('llama', pml.Family())\n")
    assert detect(model, corpora, tmp_path / "out", "--families", families_file) == 0


@pytest.mark.parametrize("has_results", [True, False], ids=["next to results", "next to another program's run.json"])
def test_a_folder_with_files_of_the_user_is_not_touched(model, tmp_path, corpora, capsys, has_results):
    out = tmp_path / "out"
    if has_results:
        assert detect(model, corpora, out) == 0
    else:
        out.mkdir()
        (out / "run.json").write_text("[]")  # a file of this name that pymultiling did not write
    (out / "notes.md").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert detect(model, corpora, out) == 1
    assert_error_line(capsys, "holds other files", "--out")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_rejects_a_file_as_result_folder(model, tmp_path, corpora, capsys):
    (tmp_path / "out").write_text("")
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "is a file", "--out")


def test_rejects_models_that_cannot_be_loaded(model, tmp_path, corpora, capsys):
    out = tmp_path / "out"
    assert detect(tmp_path / "absent", corpora, out) == 1
    assert_error_line(capsys, tmp_path / "absent", "no such folder")
    (tmp_path / "blank").mkdir()
    assert detect(tmp_path / "blank", corpora, out) == 1
    assert_error_line(capsys, "config.json")
    damaged = save_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:1000])
    assert detect(damaged, corpora, out) == 1
    assert_error_line(capsys, damaged, "cannot be loaded")
    assert not out.exists()


def test_rejects_a_model_with_missing_weights(tmp_path, corpora, capsys):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "lacks 1 weights", "layers.0.mlp.up_proj")


def test_rejects_a_model_of_an_unknown_family(tmp_path, corpora, capsys):
    from transformers import MambaConfig, MambaForCausalLM

    folder = save_model(
        tmp_path / "model", MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=8, num_hidden_layers=1))
    )
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "mamba", "looked for one of llama")


@pytest.mark.parametrize("arguments, text", [([], "COMMAND"), (["count-sheep"], "count-sheep")])
def test_rejects_a_missing_and_an_unknown_command_in_one_line(tmp_path, monkeypatch, capsys, arguments, text):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert len(assert_error_line(capsys, text).splitlines()) == 1
    assert_folder_holds(tmp_path)


def test_cuda_without_a_gpu_suggests_the_cpu(model, tmp_path, corpora, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert detect(model, corpora, tmp_path / "out", "--device", "cuda") == 1
    assert_error_line(capsys, "--device cpu")


def test_debug_prints_the_traceback(tmp_path, corpora, capsys):
    assert detect(tmp_path / "absent", corpora, tmp_path / "out", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_runs_as_a_module():
    command = [sys.executable, "-m", "pymultiling", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pymultiling {pml.__version__}"


def test_the_message_of_exhausted_memory_names_the_options(model, tmp_path, corpora, capsys, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(ImportanceProbe, "launch", full)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "out of memory: reduce --batch-tokens")


def test_results_cannot_replace_files_that_the_command_uses(model, tmp_path, corpora, capsys):
    out = tmp_path / "out"
    assert detect(model, corpora, out) == 0
    before = sorted(path for path in out.rglob("*"))
    texts = f"fr={corpora['fr']}"
    for sets in (["--neurons", out / "neurons"], ["--neurons", f"fr={out / 'neurons' / 'fr.safetensors'}"]):
        assert run("ablate", "--model", model, *sets, "--texts", texts, "--out", out, *SMALL_BATCHES) == 1
        assert_error_line(capsys, f"contains {out / 'neurons'}", "which this command uses")
    assert run("ablate", "--model", out, "--neurons", model, "--texts", texts, "--out", out, *SMALL_BATCHES) == 1
    assert_error_line(capsys, f"contains {out}", "which this command uses")
    checkpoint = ["--checkpoint", tmp_path / "new" / "state"]
    options = ["--model", model, "--corpus", texts, "--out", tmp_path / "new", *checkpoint, *SMALL_BATCHES]
    for command in ("detect", "count"):
        assert run(command, *options) == 1
        assert_error_line(capsys, "new/state, which this command uses", "give --out another folder")
    assert not (tmp_path / "new").exists()
    assert sorted(path for path in out.rglob("*")) == before
