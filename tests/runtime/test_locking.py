"""One run at a time uses a folder, until it has ended or was killed."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

import pymultiling as pml
from pymultiling.runtime.locking import lock_folder

HOLDING = """
import os, sys, time
from pathlib import Path
from pymultiling.runtime.locking import lock_folder
with lock_folder(Path(sys.argv[1])):
    if "forks" not in sys.argv or not os.fork():
        print("holding", os.getpid(), flush=True)
    time.sleep(60)
"""


def holder(part, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDING, part, *arguments], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def part(tmp_path):
    folder = tmp_path / "process-0-of-1"
    folder.mkdir()
    return folder


def test_a_folder_in_use_is_refused_until_its_user_is_gone(part):
    with holder(part) as other:
        assert other.stdout.readline().startswith("holding")
        sentence = f"{part.parent} is in use by another run: wait until it has ended, or give another folder"
        with pytest.raises(pml.CheckpointError) as refused, lock_folder(part):
            pytest.fail("it was locked")
        assert str(refused.value) == sentence
        another = part.with_name("process-1-of-2")
        another.mkdir()
        with lock_folder(another):  # another process's part is free
            pass
        other.kill()
    with lock_folder(part):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_what_a_run_starts_does_not_keep_its_folder(part):
    with holder(part, "forks") as other:
        child = int(other.stdout.readline().split()[1])
        other.kill()
        other.wait()
        os.kill(child, 0)  # it is there
        with lock_folder(part):
            pass
        os.kill(child, 9)


def test_a_process_has_a_folder_once(part):
    sentence = f"{part.parent} is already in use by this process: give another folder"
    with lock_folder(part):
        with pytest.raises(pml.CheckpointError) as refused, lock_folder(part / ".." / part.name):
            pytest.fail("it was locked")
        assert str(refused.value) == sentence
    with lock_folder(part):
        pass


def test_it_is_free_after_an_exception(part):
    with pytest.raises(RuntimeError), lock_folder(part):
        raise RuntimeError
    with lock_folder(part):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fcntl on Windows")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(part, monkeypatch, code):
    def without(*_):
        raise OSError(code, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with lock_folder(part), pytest.raises(pml.CheckpointError, match="already in use by this process"), lock_folder(part):
            pytest.fail("it was locked")
    expected = (
        f"{part.parent} cannot be locked ([Errno {code}] Function not implemented): make sure that no other run uses it"
    )
    assert [str(one.message) for one in said] == [expected]
    monkeypatch.undo()
    with lock_folder(part):  # no marker was left
        pass


def test_a_folder_that_cannot_be_written_to(part):
    (part / "lock").mkdir()
    with pytest.raises(pml.CheckpointError, match=f"^{part.parent} cannot hold checkpoints: Is a directory$"):
        with lock_folder(part):
            pytest.fail("it was locked")
