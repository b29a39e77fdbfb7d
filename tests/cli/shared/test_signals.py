"""Signals end a command as Ctrl-C does: no result is half written, and the message says how to continue."""

import os
import signal

import pytest

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


def test_without_a_checkpoint_the_message_names_the_option(model, tmp_path, corpora, capsys, monkeypatch):
    send_while_writing(monkeypatch, signal.SIGTERM)
    assert detect(model, corpora, tmp_path / "out") == 143
    assert_error_line(capsys, "no results were written; with --checkpoint FOLDER the next run can be continued")
    assert_folder_holds(tmp_path, "fr.txt", "de.txt")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(model, tmp_path, corpora, monkeypatch):
    """nohup ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    send_while_writing(monkeypatch, signal.SIGHUP)
    assert detect(model, corpora, tmp_path / "out") == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
