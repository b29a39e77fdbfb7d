"""Signals end a command as Ctrl-C does: no result is half written, and the message says how to continue."""

import os
import signal

import pytest

from pymultiling.probes.importance import ImportanceProbe
from tests.support.command_line import assert_error_line, assert_folder_holds, detect

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP and cannot send SIGTERM")


@pytest.fixture(autouse=True)
def default_handlers():
    """The handlers of a program that no nohup started."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    former = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, former):
        signal.signal(number, handler)


def send_while_writing(patch: pytest.MonkeyPatch, number: int) -> None:
    """Makes every plot send this process a signal, while the results are being written."""
    patch.setattr("pymultiling.results.plots.save", lambda *_: os.kill(os.getpid(), number))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_no_file_and_the_next_run_continues(model, tmp_path, corpora, capsys, monkeypatch, name):
    number = getattr(signal, name)
    state = ["--checkpoint", tmp_path / "state"]
    with monkeypatch.context() as patch:
        send_while_writing(patch, number)
        assert detect(model, corpora, tmp_path / "out", *state) == 128 + number
    continues = f"run the same command again to continue from {tmp_path / 'state'}"
    assert_error_line(capsys, f"pymultiling detect: ended by {name}; no results were written; {continues}")
    assert_folder_holds(tmp_path, "state", "fr.txt", "de.txt")
    assert detect(model, corpora, tmp_path / "out", *state) == 0


def test_without_the_option_the_state_is_in_the_result_folder(model, tmp_path, corpora, capsys, monkeypatch):
    """Nothing is measured a second time, and the results replace the state."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        send_while_writing(patch, signal.SIGTERM)
        assert detect(model, corpora, out) == 143
    assert_error_line(capsys, f"no results were written; run the same command again to continue from {out}/checkpoint")
    assert_folder_holds(out, "checkpoint")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with monkeypatch.context() as patch:
        patch.setattr(ImportanceProbe, "launch", None)
        assert detect(model, corpora, out) == 0
    assert f"fr: 6 documents, from {out}/checkpoint" in capsys.readouterr().err
    assert not (out / "checkpoint").exists() and (out / "run.json").exists()


def test_a_state_of_other_arguments_is_not_thrown_away(model, tmp_path, corpora, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        send_while_writing(patch, signal.SIGTERM)
        assert detect(model, corpora, out) == 143
    assert detect(model, corpora, out, "--pack", 9) == 1
    assert_error_line(capsys, f"{out}/checkpoint is a checkpoint of another run: its pack was None", "or delete this")
    assert detect(model, corpora, out) == 0


def test_an_interrupt_before_anything_was_measured_leaves_nothing(model, tmp_path, corpora, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImportanceProbe, "launch", interrupt)
    assert detect(model, corpora, tmp_path / "out") == 130
    assert assert_error_line(capsys, "interrupted").endswith("no results were written")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")


def test_other_files_in_a_folder_checkpoint_are_not_replaced(model, tmp_path, corpora, capsys):
    (tmp_path / "out" / "checkpoint").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    assert detect(model, corpora, tmp_path / "out") == 1
    assert_error_line(capsys, "holds other files, such as checkpoint/model.safetensors")


def test_an_ignored_signal_stays_ignored(model, tmp_path, corpora, monkeypatch):
    """nohup ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send_while_writing(monkeypatch, signal.SIGHUP)
    assert detect(model, corpora, tmp_path / "out") == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
