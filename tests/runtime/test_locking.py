"""One run at a time uses a folder, until it has ended or is killed."""

import errno
import os
import subprocess
import sys
import warnings

import pytest

import pymultiling as pml
from pymultiling.runtime.locking import lock_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from pymultiling.runtime.locking import lock_folder
with lock_folder(Path(sys.argv[1])):
    if "forks" not in sys.argv or not os.fork():
        print("holding", os.getpid(), flush=True)
    time.sleep(60)
"""


def start_holder(process_folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, process_folder, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def process_folder(tmp_path):
    """The folder of a single process inside the checkpoint folder."""
    folder = tmp_path / "process-0-of-1"
    folder.mkdir()
    return folder


def test_a_folder_in_use_is_refused_until_the_other_run_is_killed(process_folder):
    with start_holder(process_folder) as process:
        assert process.stdout.readline().startswith("holding")
        message = f"{process_folder.parent} is in use by another run: wait until it has ended, or give another folder"
        with pytest.raises(pml.CheckpointError) as refused, lock_folder(process_folder):
            pytest.fail("the folder was locked")
        assert str(refused.value) == message
        another = process_folder.with_name("process-1-of-2")
        another.mkdir()
        with lock_folder(another):  # the folder of another process is free
            pass
        process.kill()
    with lock_folder(process_folder):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_child_processes_do_not_keep_the_lock(process_folder):
    with start_holder(process_folder, "forks") as process:
        child = int(process.stdout.readline().split()[1])
        process.kill()
        process.wait()
        os.kill(child, 0)  # signal 0 ends nothing; it raises an error if there is no such process
        with lock_folder(process_folder):
            pass
        os.kill(child, 9)


def test_a_process_cannot_lock_a_folder_that_it_has_locked_until_it_releases_it(process_folder):
    message = f"{process_folder.parent} is already in use by this process: give another folder"
    with lock_folder(process_folder):
        with pytest.raises(pml.CheckpointError) as refused, lock_folder(process_folder / ".." / process_folder.name):
            pytest.fail("the folder was locked")
        assert str(refused.value) == message
    with lock_folder(process_folder):
        pass


def test_an_exception_releases_the_lock(process_folder):
    with pytest.raises(RuntimeError), lock_folder(process_folder):
        raise RuntimeError
    with lock_folder(process_folder):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fcntl on Windows")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(process_folder, monkeypatch, code):
    def fail(*_):
        raise OSError(code, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with (
            lock_folder(process_folder),
            pytest.raises(pml.CheckpointError, match="already in use by this process"),
            lock_folder(process_folder),
        ):
            pytest.fail("the folder was locked")
    reason = f"[Errno {code}] Function not implemented"
    expected = f"{process_folder.parent} cannot be locked ({reason}): make sure that no other run uses it"
    assert [str(warning.message) for warning in caught] == [expected]
    monkeypatch.undo()
    with lock_folder(process_folder):  # no marker file stays behind
        pass


def test_a_folder_that_cannot_be_written_to_is_refused(process_folder):
    (process_folder / "lock").mkdir()
    message = rf"^{process_folder.parent} cannot hold checkpoints \(Is a directory\): give another folder$"
    with pytest.raises(pml.CheckpointError, match=message), lock_folder(process_folder):
        pytest.fail("the folder was locked")
