import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError

import pymultiling as pml
from pymultiling.models.families import FAMILIES
from pymultiling.probes.importance import ImportanceProbe
from tests.support.command_line import QUICK, assert_nothing_written, assert_one_sentence, detect, run
from tests.support.tiny_text import save_model


def test_a_former_run_is_replaced(model, tmp_path, corpora):
    assert detect(model, corpora, tmp_path / "out") == 0
    assert detect(model, corpora, tmp_path / "out", "--sites", "ffn") == 0
    assert list(pml.NeuronSet.load(tmp_path / "out" / "neurons" / "fr.safetensors").sites) == ["ffn"]
    assert_nothing_written(tmp_path, "out", "fr.txt", "de.txt")


def test_a_former_run_is_replaced_in_a_folder_with_the_name_of_the_command(model, tmp_path, corpora, monkeypatch):
    """The command's name is no path that it reads."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert detect(model, corpora, "detect") == 0


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(28, "No space left on device", "a.png"), RuntimeError("odd")]
)
def test_a_run_that_fails_late_changes_nothing(model, tmp_path, corpora, capsys, monkeypatch, error):
    assert detect(model, corpora, tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(figure, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("pymultiling.results.plots.save", fail)
    assert detect(model, corpora, tmp_path / "out") == (130 if error is KeyboardInterrupt else 1)
    words = {"KeyboardInterrupt": "interrupted", "OSError": "No space left", "RuntimeError": "--debug"}
    name = error.__name__ if isinstance(error, type) else type(error).__name__
    assert words[name] in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupt_says_how_to_go_on(model, tmp_path, corpora, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    state = ["--checkpoint", tmp_path / "state"]
    with monkeypatch.context() as patch:
        patch.setattr("pymultiling.results.plots.save", interrupt)
        assert detect(model, corpora, tmp_path / "out", *state) == 130
    assert_one_sentence(capsys, f"no results were written; the same command goes on from {tmp_path / 'state'}")
    assert detect(model, corpora, tmp_path / "out", *state) == 0
    assert_nothing_written(tmp_path, "out", "state", "fr.txt", "de.txt")


def test_a_full_disk_is_said_with_the_file(model, tmp_path, corpora, capsys, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("pymultiling.runtime.storage.save_file", full)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "fr.safetensors cannot be read or written: I/O error: No space left on device")
    assert_nothing_written(tmp_path, "fr.txt", "de.txt")


def test_families_of_ones_own(model, tmp_path, corpora, capsys, monkeypatch):
    others = {name: family for name, family in FAMILIES.items() if name != "llama"}
    monkeypatch.setattr("pymultiling.models.families.FAMILIES", others)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "register_family('llama', ", "on the command line in a file for --families")
    own = tmp_path / "own.py"
    for content, words in (("1 / 0", "ZeroDivisionError"), ("import absent_package", "absent_package")):
        own.write_text(content)
        assert detect(model, corpora, tmp_path / "out", "--families", own) == 1
        assert_one_sentence(capsys, f"--families {own}: ", words)
    own.write_text("import pymultiling as pml\npml.register_family('llama', pml.Family())\n")
    assert detect(model, corpora, tmp_path / "out", "--families", own) == 0


@pytest.mark.parametrize("former", [True, False])
def test_other_files_are_left_alone(model, tmp_path, corpora, capsys, former):
    out = tmp_path / "out"
    if former:
        assert detect(model, corpora, out) == 0
    else:
        out.mkdir()
        (out / "run.json").write_text("[]")
    (out / "notes.md").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert detect(model, corpora, out) == 1
    assert_one_sentence(capsys, "holds other files", "--out")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_out_is_a_file(model, tmp_path, corpora, capsys):
    (tmp_path / "out").write_text("")
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "is a file", "--out")


def test_models_that_cannot_be_loaded(model, tmp_path, corpora, capsys):
    out = tmp_path / "out"
    assert detect(tmp_path / "absent", corpora, out) == 1
    assert_one_sentence(capsys, tmp_path / "absent", "no such folder")
    (tmp_path / "blank").mkdir()
    assert detect(tmp_path / "blank", corpora, out) == 1
    assert_one_sentence(capsys, "config.json")
    damaged = save_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:1000])
    assert detect(damaged, corpora, out) == 1
    assert_one_sentence(capsys, damaged, "cannot be loaded")
    assert not out.exists()


def test_missing_weights_are_not_made_up(tmp_path, corpora, capsys):
    from safetensors.torch import load_file, save_file

    folder = save_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "lacks 1 weights", "layers.0.mlp.up_proj")


def test_unknown_family(tmp_path, corpora, capsys):
    from transformers import MambaConfig, MambaForCausalLM

    folder = save_model(
        tmp_path / "model", MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=8, num_hidden_layers=1))
    )
    assert detect(folder, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "mamba", "looked for one of llama")


@pytest.mark.parametrize("arguments, word", [([], "COMMAND"), (["count-sheep"], "count-sheep")])
def test_wrong_commands(tmp_path, monkeypatch, capsys, arguments, word):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert len(assert_one_sentence(capsys, word).splitlines()) == 1
    assert_nothing_written(tmp_path)


def test_no_gpu(model, tmp_path, corpora, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert detect(model, corpora, tmp_path / "out", "--device", "cuda") == 1
    assert_one_sentence(capsys, "--device cpu")


def test_debug_shows_the_traceback(tmp_path, corpora, capsys):
    assert detect(tmp_path / "absent", corpora, tmp_path / "out", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_as_a_module():
    command = [sys.executable, "-m", "pymultiling", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pymultiling {pml.__version__}"


def test_too_little_memory_is_said(model, tmp_path, corpora, capsys, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(ImportanceProbe, "measure", full)
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_one_sentence(capsys, "out of memory: give a smaller --batch-tokens")


def test_results_do_not_replace_what_is_read(model, tmp_path, corpora, capsys):
    out = tmp_path / "out"
    assert detect(model, corpora, out) == 0
    before = sorted(path for path in out.rglob("*"))
    texts = f"fr={corpora['fr']}"
    for given in (["--neurons", out / "neurons"], ["--neurons", f"fr={out / 'neurons' / 'fr.safetensors'}"]):
        assert run("ablate", "--model", model, *given, "--texts", texts, "--out", out, *QUICK) == 1
        assert_one_sentence(capsys, out / "neurons", "is to hold results alone, and")
    assert run("ablate", "--model", out, "--neurons", model, "--texts", texts, "--out", out, *QUICK) == 1
    assert_one_sentence(capsys, "is to hold results alone, and")
    state = ["--checkpoint", tmp_path / "new" / "state"]
    given = ["--model", model, "--corpus", texts, "--out", tmp_path / "new", *state, *QUICK]
    for command in ("detect", "count"):
        assert run(command, *given) == 1
        assert_one_sentence(capsys, "new/state is in it: give --out another folder")
    assert not (tmp_path / "new").exists()
    assert sorted(path for path in out.rglob("*")) == before
