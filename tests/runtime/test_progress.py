import sys

import pytest

from pymultiling.runtime import progress


def test_lines_are_printed_in_intervals_and_at_the_end(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    with progress.show_progress("fr", "documents", show=True, total=1500) as bar:
        bar.update(1000)
        bar.update(500)
    lines = [line.rpartition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["fr: 1,000 of 1,500 documents", "fr: 1,500 of 1,500 documents", "fr: 1,500 of 1,500 documents"]


def test_a_short_loop_prints_one_line(capsys):
    with progress.show_progress("fr", "documents", show=True) as bar:
        bar.update(3)
        bar.update()
    assert capsys.readouterr().err.startswith("fr: 4 documents, 0.")


@pytest.mark.parametrize("count, speed", [(4, "0.4"), (4000, "400")])
def test_a_slow_loop_shows_a_decimal_of_its_speed(capsys, count, speed):
    with progress.show_progress("fr", "documents", show=True) as bar:
        bar.started -= 10
        bar.update(count)
        bar.set_postfix_str("12 tokens/s")
    assert f", {speed} documents/s, 12 tokens/s" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.show_progress("fr", "documents", show=True, total=2) as bar:
        bar.update(2)
    printed = capsys.readouterr().err
    assert "fr:   0%|" in printed and "| 0/2 documents [00:00, ? left]" in printed
    assert "fr: 100%|" in printed and "| 2/2 documents [00:00, 00:00 left]" in printed


def test_a_pass_on_a_terminal_of_80_columns_shows_time_and_speed_in_full(capsys, monkeypatch):
    """Before the first batch, which can take minutes, the line says that it runs."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    pace = progress.Pace()
    with progress.show_progress("de: measuring (1 of 6)", "documents", show=True) as bar:
        pace.begin(bar)
        monkeypatch.setattr(progress.time, "monotonic", lambda: pace._started + 10)
        pace.update(bar, 1234, 54320, "77 min left")
    printed = capsys.readouterr().err.replace("\n", "\r").split("\r")
    assert "de: measuring (1 of 6): 0 documents [00:00, first batch]" in printed
    assert printed[-2].rstrip() == "de: measuring (1 of 6): 1,234 documents [00:00, 77 min left, 5,432 tokens/s]"


def test_a_loop_that_did_nothing_has_no_speed(capsys):
    with progress.show_progress("fr", "documents", show=True) as bar:
        progress.Pace().begin(bar)
    assert capsys.readouterr().err == "fr: 0 documents, 0.0 s\n"


def test_nothing_is_printed_unless_shown(capsys):
    with progress.show_progress("fr", "documents", show=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value, printed", [("1", False), ("true", False), ("0", True), ("", True)])
def test_the_variable_of_tqdm_turns_progress_off(capsys, monkeypatch, value, printed):
    monkeypatch.setenv("TQDM_DISABLE", value)
    with progress.show_progress("fr", "documents", show=True) as bar:
        bar.update(3)
    progress.print_line("a line", show=True)
    assert bool(capsys.readouterr().err) == printed
