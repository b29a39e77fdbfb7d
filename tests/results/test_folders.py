"""A run's folder is written completely or not at all, and files that no run wrote are not touched."""

import json
import os
from pathlib import Path

import pytest

import pymultiling as pml
from pymultiling.results.folders import check_output_folder, result_folder
from pymultiling.results.run import Run


def write_run(out: Path, name: str = "a.csv", text: str = "1\n") -> None:
    with result_folder(out) as folder:
        (folder / "part").mkdir()
        (folder / "part" / name).write_text(text)
        Run("test", {}).write(folder)


def test_the_folder_appears_at_the_end_of_the_block(tmp_path):
    out = tmp_path / "deep" / "out"
    with result_folder(out) as folder:
        assert folder.parent == out.parent and not out.exists()
        (folder / "a.csv").write_text("1\n")
        assert str(os.getpid()) in folder.name  # another process has another temporary folder
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a.csv").read_text() == "1\n"


def test_an_earlier_run_is_replaced(tmp_path):
    write_run(tmp_path / "out", "a.csv")
    write_run(tmp_path / "out", "b.csv")
    assert [path.name for path in (tmp_path / "out" / "part").iterdir()] == ["b.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [OSError("full"), KeyboardInterrupt(), MemoryError()], ids=lambda error: type(error).__name__
)
def test_a_failure_changes_nothing(tmp_path, monkeypatch, error):
    out = tmp_path / "out"
    for has_earlier_run in (False, True):
        if has_earlier_run:
            write_run(out)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(type(error)), result_folder(out) as folder:  # noqa: PT012 - the block is what is tested
            (folder / "b.csv").write_text("half")
            raise error
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    rename = Path.rename

    def fail_once(path, target):
        if path.name.endswith(".partial"):
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(type(error)):
        write_run(out, "b.csv")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("record", [None, "[]", "{}", "no JSON"])
def test_a_folder_with_other_files_is_refused(tmp_path, record):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.md").write_text("mine")
    if record is not None:
        (out / "run.json").write_text(record)
    with pytest.raises(
        pml.CheckpointError, match=f"^{out} holds other files, such as notes.md: give --out a new folder$"
    ):
        check_output_folder(out)
    with pytest.raises(pml.CheckpointError), result_folder(out):
        pytest.fail("the folder was opened")
    assert (out / "notes.md").read_text() == "mine"


def test_a_run_folder_with_an_additional_file_is_refused(tmp_path):
    write_run(tmp_path / "out")
    check_output_folder(tmp_path / "out")
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(pml.CheckpointError, match=r"holds other files, such as notes.md"):
        check_output_folder(tmp_path / "out")


def test_new_and_empty_folders_are_accepted_and_files_and_mount_points_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "deep/new"):
        assert check_output_folder(tmp_path / name) == tmp_path / name
    monkeypatch.chdir(tmp_path)
    assert check_output_folder("new") == tmp_path / "new"
    (tmp_path / "file").write_text("")
    with pytest.raises(pml.CheckpointError, match=f"^{tmp_path / 'file'} is a file: give --out another folder$"):
        check_output_folder(tmp_path / "file")
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(pml.CheckpointError, match=r"is a mount point: give --out another folder$"):
        check_output_folder(tmp_path / "empty")


def test_the_record_lists_the_files_of_the_folder(tmp_path):
    write_run(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["files"] == ["part/a.csv"]
