"""Checkpoints: what is damaged is found, what is in use is refused, what cannot be written leaves what was there."""

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
from pymultiling.passes.checkpoints import CheckpointInterval, PassState, opened
from pymultiling.runtime.processes import Processes

LOAD = pml.ActivationStatistics.load
RUN = {"model": "abc", "sites": ("ffn", "q"), "max_length": 64}


def standing(number: int) -> PassState:
    active = torch.full((2, 3), number)
    place = ChunkStart(2, 10 * number, number, "digest", {0: ("one", "hash"), 1: ("other", "")})
    report = CorpusReport(texts=number, cut=1)
    total = pml.ActivationStatistics(active, number)
    return PassState(total, place, f"end {number}", number, 7 * number, report, report + report, number > 5)


def keeper(folder: Path, run=RUN, processes=Processes(), every=CheckpointInterval(60.0)):
    return opened(folder, processes, run, every)


def restored(folder: Path, corpus: int = 0) -> int | None:
    """The number of the state that is found."""
    with keeper(folder) as checkpoints:
        found = checkpoints.restore(corpus, LOAD)
    if found is None:
        return None
    number = found.total.tokens
    truth = standing(number)
    assert torch.equal(found.total.active, truth.total.active)
    for name in ("place", "digest", "batches", "documents", "before", "report", "ended"):
        assert getattr(found, name) == getattr(truth, name), name
    return number


def written(folder: Path, *numbers: int) -> Path:
    """A folder with these states of corpus 0, one after the other, and one of corpus 1; gives the process's own."""
    with keeper(folder) as checkpoints:
        for number in numbers:
            checkpoints.write(0, standing(number))
        checkpoints.write(1, standing(9))
    return folder / "process-0-of-1"


def test_the_last_state_is_found_and_the_one_before_it_is_kept(tmp_path):
    own = written(tmp_path, 1, 2, 3, 4)
    assert restored(tmp_path) == 4 and restored(tmp_path, 1) == 9 and restored(tmp_path, 2) is None
    assert sorted(path.name for path in own.iterdir()) == [
        "0-2.json", "0-2.safetensors", "0-3.json", "0-3.safetensors", "1-0.json", "1-0.safetensors", "lock",
    ]  # fmt: skip


def damages():
    """Twenty: the manifest or the statistics cut off at four places, with four bits turned, empty, or not there."""
    drawn = random.Random(0)
    found = []
    for kind in ("json", "safetensors"):
        found += [(kind, "cut", drawn.random()) for _ in range(4)]
        found += [(kind, "bit", drawn.random()) for _ in range(4)]
        found += [(kind, "empty", 0.0), (kind, "gone", 0.0)]
    return found


def damage(path: Path, how: str, where: float) -> None:
    data = bytearray(path.read_bytes())
    place = int(where * len(data))
    if how == "gone":
        path.unlink()
        return
    if how == "bit":
        data[place] ^= 1 << place % 8
    path.write_bytes(data[:place] if how in ("cut", "empty") else data)


@pytest.mark.parametrize("kind, how, where", damages())
def test_a_damaged_state_is_found_and_the_one_before_it_is_used(tmp_path, kind, how, where):
    own = written(tmp_path, 1, 2)
    damage(own / f"0-1.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-1 is not whole .*: the one before it is used"):
        assert restored(tmp_path) == 1
    assert not list(own.glob("0-1.*"))  # it is none of the two that are kept
    written(tmp_path, 3)
    damage(own / f"0-1.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-1 is not whole .*: the one before it is used"):
        assert restored(tmp_path) == 1
    damage(own / f"0-0.{kind}", how, where)
    with pytest.warns(UserWarning, match="0-0 is not whole .*: the corpus begins anew"):
        assert restored(tmp_path) is None
    assert restored(tmp_path, 1) == 9
    written(tmp_path, 4)
    assert restored(tmp_path) == 4


def test_two_damaged_states_begin_anew(tmp_path):
    own = written(tmp_path, 1, 2)
    damage(own / "0-1.json", "empty", 0)
    damage(own / "0-0.json", "empty", 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert restored(tmp_path) is None
    assert [str(one.message).rpartition(": ")[2] for one in said] == [
        "the one before it is used",
        "the corpus begins anew",
    ]


def test_a_state_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path, monkeypatch):
    written(tmp_path, 1, 2)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    with keeper(tmp_path) as checkpoints:
        monkeypatch.setattr(Path, "read_bytes", broken)
        with pytest.raises(pml.CheckpointError, match="0-1 cannot be read now: .*Input/output error"):
            checkpoints.restore(0, LOAD)
        monkeypatch.undo()
        assert checkpoints.restore(0, LOAD).total.tokens == 2


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    own = written(tmp_path, 1)
    for name in ("0-9 (copy).json", "notes.txt", "10-0.json"):
        (own / name).write_text("")
    assert restored(tmp_path) == 1


def test_another_run_is_refused_with_what_differs(tmp_path):
    written(tmp_path, 1)
    for run, words in (
        ({**RUN, "max_length": 32}, "its max_length was 64, now it is 32; run it as it was, or give another folder"),
        ({**RUN, "sites": ["ffn"]}, r"its sites was \['ffn', 'q'\], now it is \['ffn'\]"),
        ({**RUN, "pack": 9}, "its pack was None, now it is 9"),
    ):
        with keeper(tmp_path, run) as checkpoints, pytest.raises(pml.CheckpointError, match=words):
            checkpoints.restore(0, LOAD)


def test_another_number_of_processes_is_refused(tmp_path):
    with keeper(tmp_path, processes=Processes(3, 16)) as checkpoints:
        checkpoints.write(0, standing(1))
    with pytest.raises(pml.CheckpointError, match="a checkpoint of 16 processes, this run has 6: start as many"):
        with keeper(tmp_path, processes=Processes(3, 6)):
            pytest.fail("it was opened")
    with keeper(tmp_path, processes=Processes(4, 16)) as checkpoints:
        assert checkpoints.restore(0, LOAD) is None
    with keeper(tmp_path, processes=Processes(3, 16)) as checkpoints:
        assert checkpoints.restore(0, LOAD).total.tokens == 1


def test_a_folder_is_locked_while_it_is_open(tmp_path):
    with keeper(tmp_path):
        with pytest.raises(pml.CheckpointError, match="already in use by this process"), keeper(tmp_path):
            pytest.fail("it was opened")
        with keeper(tmp_path, processes=Processes(1, 1)):  # another process's part is free
            pass
    with keeper(tmp_path):
        pass


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, monkeypatch, fails):
    own = written(tmp_path, 1, 2)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with keeper(tmp_path) as checkpoints:
        monkeypatch.setattr(os, fails, full)
        with pytest.warns(UserWarning, match="cannot hold another state .*No space left on device.*what it held stays"):
            checkpoints.write(0, standing(3))
        monkeypatch.undo()
        assert restored_quietly(checkpoints) == 2
        assert not list(own.glob("0-2*"))
        checkpoints.write(0, standing(4))
        assert restored_quietly(checkpoints) == 4


def restored_quietly(checkpoints) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return checkpoints.restore(0, LOAD).total.tokens


def test_a_folder_that_goes_away_is_said(tmp_path):
    with keeper(tmp_path) as checkpoints:
        shutil.rmtree(tmp_path)
        with pytest.warns(UserWarning, match="process-0-of-1 cannot hold another state .*No such file"):
            checkpoints.write(0, standing(3))


def test_a_folder_that_cannot_be_made_or_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "process-0-of-1" / "lock").mkdir(parents=True)
    for name in ("file", "folder"):
        with pytest.raises(pml.CheckpointError, match=f"{name} cannot hold checkpoints: "), keeper(tmp_path / name):
            pytest.fail("it was opened")


def test_a_state_of_another_version_is_refused(tmp_path, monkeypatch):
    written(tmp_path, 1)
    monkeypatch.setattr(checkpoints_module, "FORMAT", "pymultiling.checkpoint/2")
    with pytest.raises(pml.CheckpointError, match="its format was pymultiling.checkpoint/1, now it is .*/2"):
        restored(tmp_path)


def test_it_is_written_after_so_many_documents_or_seconds(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("pymultiling.passes.checkpoints.time.monotonic", lambda: now)
    with keeper(tmp_path, every=CheckpointInterval(10.0, 100)) as checkpoints:
        for documents, seconds, expected in ((60, 0, None), (39, 9, None), (1, 0, 3), (99, 9, 3), (0, 1, 5), (0, 9, 5)):
            now += seconds
            number = (expected or 0) if documents in (1, 0) else 7
            checkpoints.measured(0, standing(number), documents)
            found = checkpoints.restore(0, LOAD)
            assert (found and found.total.tokens) == expected, (documents, seconds)
