"""Checkpoints: damage is detected, folders in use are refused, and failed writes keep the earlier states."""

import errno
import os
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import pymultiling as pml
from pymultiling.data.chunks import ChunkStart
from pymultiling.data.corpora import CorpusReport
from pymultiling.passes import checkpoints as checkpoints_module
from pymultiling.passes.checkpoints import CheckpointInterval, PassState, open_checkpoints
from pymultiling.runtime.processes import Processes

LOAD = pml.ActivationStatistics.load
SINGLE, INTERVAL = Processes(), CheckpointInterval(60.0)
RUN = {"model": "abc", "sites": ("ffn", "q"), "max_length": 64}


def make_state(number: int) -> PassState:
    active = torch.full((2, 3), number)
    start = ChunkStart(2, 10 * number, number, "digest", {0: ("one", "hash"), 1: ("other", "")})
    report = CorpusReport(texts=number, cut=1)
    total = pml.ActivationStatistics(active, number)
    return PassState(total, start, f"end {number}", number, 7 * number, report, report + report, number > 5)


def open_folder(folder: Path, run=RUN, processes=SINGLE, interval=INTERVAL):
    return open_checkpoints(folder, processes, run, interval)


def restore(folder: Path, corpus: int = 0) -> int | None:
    """Returns the number of the state that is restored, after a check of its content."""
    with open_folder(folder) as checkpoints:
        state = checkpoints.restore(corpus, LOAD)
    if state is None:
        return None
    number = state.total.tokens
    expected = make_state(number)
    assert torch.equal(state.total.active, expected.total.active)
    for name in ("start", "digest", "batches", "documents", "report_before", "report", "ended"):
        assert getattr(state, name) == getattr(expected, name), name
    return number


def write_states(folder: Path, *numbers: int) -> Path:
    """Writes these states of corpus 0 and one of corpus 1, and returns the process's part of the folder."""
    with open_folder(folder) as checkpoints:
        for number in numbers:
            checkpoints.write(0, make_state(number))
        checkpoints.write(1, make_state(9))
    return folder / "process-0-of-1"


def test_restores_the_last_state_and_keeps_the_previous_one(tmp_path):
    part = write_states(tmp_path, 1, 2, 3, 4)
    assert restore(tmp_path) == 4 and restore(tmp_path, 1) == 9 and restore(tmp_path, 2) is None
    assert sorted(path.name for path in part.iterdir()) == [
        "0-2.json", "0-2.safetensors", "0-3.json", "0-3.safetensors", "1-0.json", "1-0.safetensors", "lock",
    ]  # fmt: skip


def damages():
    """Returns 20 cases: the manifest or the statistics truncated (4), with a flipped bit (4), empty, or deleted."""
    generator = random.Random(0)
    cases = []
    for kind in ("json", "safetensors"):
        cases += [(kind, "cut", generator.random()) for _ in range(4)]
        cases += [(kind, "bit", generator.random()) for _ in range(4)]
        cases += [(kind, "empty", 0.0), (kind, "gone", 0.0)]
    return cases


def damage(path: Path, how: str, where: float) -> None:
    data = bytearray(path.read_bytes())
    offset = int(where * len(data))
    if how == "gone":
        path.unlink()
        return
    if how == "bit":
        data[offset] ^= 1 << offset % 8
    path.write_bytes(data[:offset] if how in ("cut", "empty") else data)


@pytest.mark.parametrize("kind, how, where", damages())
def test_a_damaged_state_is_detected_and_the_previous_one_is_used(tmp_path, kind, how, where):
    part = write_states(tmp_path, 1, 2)
    damage(part / f"0-1.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-1 is damaged .*: the previous one is used"):
        assert restore(tmp_path) == 1
    assert not list(part.glob("0-1.*"))  # a damaged state is not one of the two that are kept
    write_states(tmp_path, 3)
    damage(part / f"0-1.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-1 is damaged .*: the previous one is used"):
        assert restore(tmp_path) == 1
    damage(part / f"0-0.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-0 is damaged .*: the corpus is measured from the start"):
        assert restore(tmp_path) is None
    assert restore(tmp_path, 1) == 9
    write_states(tmp_path, 4)
    assert restore(tmp_path) == 4


def test_with_two_damaged_states_the_corpus_is_measured_from_the_start(tmp_path):
    part = write_states(tmp_path, 1, 2)
    damage(part / "0-1.json", "empty", 0)
    damage(part / "0-0.json", "empty", 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert restore(tmp_path) is None
    assert [str(warning.message).rpartition(": ")[2] for warning in caught] == [
        "the previous one is used",
        "the corpus is measured from the start",
    ]


def test_a_read_error_is_not_taken_for_damage(tmp_path, monkeypatch):
    write_states(tmp_path, 1, 2)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    with open_folder(tmp_path) as checkpoints:
        monkeypatch.setattr(Path, "read_bytes", broken)
        with pytest.raises(pml.CheckpointError, match=r"0-1 cannot be read now \(.*Input/output error"):
            checkpoints.restore(0, LOAD)
        monkeypatch.undo()
        assert checkpoints.restore(0, LOAD).total.tokens == 2


def test_other_files_in_the_folder_are_ignored(tmp_path):
    part = write_states(tmp_path, 1)
    for name in ("0-9 (copy).json", "notes.txt", "10-0.json"):
        (part / name).write_text("")
    assert restore(tmp_path) == 1


def test_another_run_is_refused_with_the_difference(tmp_path):
    write_states(tmp_path, 1)
    for run, words in (
        (
            {**RUN, "max_length": 32},
            "its max_length was 64, now it is 32; use the earlier value, give another folder, or delete this one",
        ),
        ({**RUN, "sites": ["ffn"]}, r"its sites was \['ffn', 'q'\], now it is \['ffn'\]"),
        ({**RUN, "pack": 9}, "its pack was None, now it is 9"),
    ):
        with open_folder(tmp_path, run) as checkpoints, pytest.raises(pml.CheckpointError, match=words):
            checkpoints.restore(0, LOAD)


def test_another_number_of_processes_is_refused(tmp_path):
    with open_folder(tmp_path, processes=Processes(3, 16)) as checkpoints:
        checkpoints.write(0, make_state(1))
    refused = pytest.raises(pml.CheckpointError, match="a checkpoint of 16 processes, this run has 6: start as many")
    with refused, open_folder(tmp_path, processes=Processes(3, 6)):
        pytest.fail("the folder was opened")
    with open_folder(tmp_path, processes=Processes(4, 16)) as checkpoints:
        assert checkpoints.restore(0, LOAD) is None
    with open_folder(tmp_path, processes=Processes(3, 16)) as checkpoints:
        assert checkpoints.restore(0, LOAD).total.tokens == 1


def test_a_folder_is_locked_while_it_is_open(tmp_path):
    with open_folder(tmp_path):
        with pytest.raises(pml.CheckpointError, match="already in use by this process"), open_folder(tmp_path):
            pytest.fail("the folder was opened")
        with open_folder(tmp_path, processes=Processes(1, 1)):  # another process's part is free
            pass
    with open_folder(tmp_path):
        pass


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_is_a_warning_and_keeps_the_earlier_states(tmp_path, monkeypatch, fails):
    part = write_states(tmp_path, 1, 2)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_folder(tmp_path) as checkpoints:
        monkeypatch.setattr(os, fails, full)
        with pytest.warns(
            UserWarning, match="cannot store a new state .*No space left on device.*the earlier ones stay"
        ):
            checkpoints.write(0, make_state(3))
        monkeypatch.undo()
        assert restore_without_warnings(checkpoints) == 2
        assert not list(part.glob("0-2*"))
        checkpoints.write(0, make_state(4))
        assert restore_without_warnings(checkpoints) == 4


def restore_without_warnings(checkpoints) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return checkpoints.restore(0, LOAD).total.tokens


def test_a_folder_that_is_deleted_is_a_warning(tmp_path):
    with open_folder(tmp_path) as checkpoints:
        shutil.rmtree(tmp_path)
        with pytest.warns(UserWarning, match="process-0-of-1 cannot store a new state .*No such file"):
            checkpoints.write(0, make_state(3))


def test_a_folder_that_cannot_be_created_or_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "process-0-of-1" / "lock").mkdir(parents=True)
    for name in ("file", "folder"):
        with (
            pytest.raises(pml.CheckpointError, match=f"{name} cannot hold checkpoints "),
            open_folder(tmp_path / name),
        ):
            pytest.fail("the folder was opened")


def test_a_state_of_another_format_is_refused(tmp_path, monkeypatch):
    write_states(tmp_path, 1)
    monkeypatch.setattr(checkpoints_module, "FORMAT", "pymultiling.checkpoint/2")
    with pytest.raises(pml.CheckpointError, match=r"its format was pymultiling.checkpoint/1, now it is .*/2"):
        restore(tmp_path)


def test_a_state_is_written_after_the_interval_of_documents_or_seconds(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("pymultiling.passes.checkpoints.time.monotonic", lambda: now)
    with open_folder(tmp_path, interval=CheckpointInterval(10.0, 100)) as checkpoints:
        for documents, seconds, expected in ((60, 0, None), (39, 9, None), (1, 0, 3), (99, 9, 3), (0, 1, 5), (0, 9, 5)):
            now += seconds
            number = (expected or 0) if documents in (1, 0) else 7
            checkpoints.update(0, make_state(number), documents)
            state = checkpoints.restore(0, LOAD)
            assert (state and state.total.tokens) == expected, (documents, seconds)
