"""Files are written completely or not at all, whatever fails, and processes do not mix their data."""

import os
import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure

import pymultiling as pml
from pymultiling.results import plots
from pymultiling.runtime.storage import save_tensors, write_atomically
from tests.support.tiny_models import tiny_model
from tests.support.tiny_text import tiny_tokenizer


def make_set() -> pml.NeuronSet:
    return pml.NeuronSet({"ffn": torch.eye(3, 5, dtype=torch.bool)})


def save_embeddings(path) -> None:
    pml.sentence_embeddings(tiny_model("llama"), tiny_tokenizer(), {path.stem: ["w1 w2"]}, folder=path.parent)


def save_statistics(path) -> None:
    votes = {"ffn": torch.ones(2, 3, 5, dtype=torch.bool)}
    pml.NeuronStatistics.of_batch({"ffn": torch.rand(2, 3, 5)}, votes, tokens=9, rule="all").save(path)


def save_tuning(path) -> None:
    model = tiny_model("llama")
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    neurons = pml.NeuronSet({"ffn": torch.ones(layers, width, dtype=torch.bool)})
    with pml.train_only(model, neurons) as trained:
        trained.save(path)


# {name of a file: a function that writes it}: all functions that write to a path of the user.
WRITERS = {
    "a.safetensors": lambda path: make_set().save(path),
    "b.safetensors": save_statistics,
    "c.safetensors": lambda path: pml.ActivationStatistics(torch.ones(3, 5, dtype=torch.int64), 9).save(path),
    "d.safetensors": save_tuning,
    "e.safetensors": lambda path: save_tensors(path, {"a": torch.zeros(3)}, "pymultiling.test/1", {}),
    "f.pth": lambda path: pml.NeuronSet.to_lape([make_set()], path),
    "g.npy": save_embeddings,
    "h.png": lambda path: plots.save(Figure(), path),
}
FAILURES = [OSError("No space left on device"), KeyboardInterrupt(), MemoryError(), RuntimeError("broken")]


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", WRITERS)
def test_if_the_new_file_cannot_be_renamed_the_earlier_one_stays_and_a_retry_works(tmp_path, monkeypatch, name, error):
    path = tmp_path / name
    path.write_text("earlier")
    monkeypatch.setattr(os, "replace", raising(error))
    with pytest.raises(type(error)):
        WRITERS[name](path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "earlier")]
    monkeypatch.undo()
    WRITERS[name](path)
    assert [file.name for file in tmp_path.iterdir()] == [name] and path.read_bytes() != b"earlier"


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "name, writes",
    [
        ("a.safetensors", "pymultiling.runtime.storage.save_file"),
        ("f.pth", "torch.save"),
        ("g.npy", "torch.from_numpy"),
        ("h.png", "matplotlib.figure.Figure.savefig"),
    ],
)
def test_if_writing_fails_half_way_the_earlier_file_stays(tmp_path, monkeypatch, name, writes, error):
    path = tmp_path / name
    path.write_text("earlier")

    def write_half(*arguments, **_):
        for partial in tmp_path.glob("*.partial"):
            partial.write_text("half")
        raise error

    monkeypatch.setattr(writes, write_half)
    with pytest.raises(type(error)):
        WRITERS[name](path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "earlier")]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_an_exception_in_the_block_leaves_no_file(tmp_path, error):
    for writes in (True, False):
        with pytest.raises(type(error)), write_atomically(tmp_path / "a.txt") as partial:  # noqa: PT012 - it is tested
            if writes:
                partial.write_text("half")
            raise error
        assert list(tmp_path.iterdir()) == []


def test_two_processes_write_to_different_temporary_files(tmp_path):
    path = tmp_path / "a.txt"
    program = (
        "import sys\n"
        "from pymultiling.runtime.storage import write_atomically\n"
        "with write_atomically(sys.argv[1]) as partial:\n"
        "    partial.write_text('theirs')\n"
        "print(partial)"
    )
    with write_atomically(path) as partial:
        partial.write_text("ours")
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() != str(partial)
        assert path.read_text() == "theirs" and partial.read_text() == "ours"
    assert path.read_text() == "ours" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_the_same_sets_give_the_same_lape_file(tmp_path):
    for name in ("a.pth", "b.pth"):
        pml.NeuronSet.to_lape([make_set(), make_set()], tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
