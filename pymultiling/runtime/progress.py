"""Progress of long loops: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from tqdm import tqdm

from pymultiling.errors import printable

SECONDS_BETWEEN_LINES = 30  # keeps the log of a long run short


class ProgressBar(Protocol):
    """What can be done with a bar, or with the lines that replace it."""

    def update(self, n: int = 1) -> bool | None:
        """Counts n more units."""

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        """Sets a note that is shown after the count."""


@contextmanager
def show_progress(label: str, unit: str, show: bool, total: int | None = None) -> Iterator[ProgressBar]:
    """Yields a progress bar on stderr.

    Without a terminal it prints a line from time to time and one at the end.

    Args:
        label: the text in front of the bar.
        unit: what is counted, in the plural, such as "documents".
        show: False: nothing is printed. Nothing is printed either if the environment has TQDM_DISABLE=1.
        total: number of units, if it is known.
    """
    show = show and not _is_disabled()
    label = printable(label)
    if show and not sys.stderr.isatty():
        lines = _Lines(label, unit, total)
        yield lines
        lines.write()
        return
    # tqdm shows nothing if the terminal does not report its size; this gives 80 and 24.
    columns, rows = shutil.get_terminal_size()
    bar: tqdm[NoReturn]
    # Without a total there is no bar to draw. The note, which has the speed, then fits on a line of 80 columns.
    if total is None:
        counted = "{n:,}{unit} [{elapsed}"
    else:
        counted = "{percentage:3.0f}%|{bar}| {n:,}/{total:,}{unit} [{elapsed}, {remaining} left"
    with tqdm(
        total=total,
        desc=label,
        unit=f" {unit}",
        disable=not show,
        file=sys.stderr,
        ncols=columns,
        nrows=rows,
        bar_format=f"{{desc}}: {counted}{{postfix}}]",
    ) as bar:
        yield bar


def print_line(line: str, show: bool) -> None:
    """Prints a line on stderr without breaking a bar, if `show` and the environment allows it."""
    if show and not _is_disabled():
        tqdm.write(printable(line), file=sys.stderr)


def _is_disabled() -> bool:
    """Whether the variable that turns off the bars of tqdm is set."""
    return os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")


class Pace:
    """Shows on the bars of a job the tokens per second, and the remaining time of the whole job."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._tokens = 0

    def begin(self, bar: ProgressBar) -> None:
        """Notes on a new bar what runs: the first batch of a large model takes minutes, and nothing is counted yet."""
        bar.set_postfix_str("first batch")

    def update(self, bar: ProgressBar, documents: int, tokens: int, remaining: str) -> None:
        """Counts more documents and tokens. remaining: such as "12 min left", or "" if it is unknown."""
        self._tokens += tokens
        seconds = max(time.monotonic() - self._started, 1e-9)
        note = f"{self._tokens / seconds:,.0f} tokens/s"
        if remaining:  # it comes first, since tqdm cuts what does not fit on the line
            note = f"{remaining}, {note}"
        bar.set_postfix_str(note, refresh=False)
        bar.update(documents)


def format_duration(seconds: float) -> str:
    """Formats a duration in the largest unit of which there are at least two: 90 s, 12 min, 30 h, 4 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class _Lines:
    """Prints progress as lines."""

    def __init__(self, label: str, unit: str, total: int | None):
        self.label, self.unit = label, unit
        self.of_total = "" if total is None else f" of {total:,}"
        self.count, self.note = 0, ""
        self.started = self.written = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.count += n
        if time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self.write()

    def set_postfix_str(self, s: str, refresh: bool = True) -> None:
        self.note = s

    def write(self) -> None:
        self.written = time.monotonic()
        seconds = self.written - self.started
        line = f"{self.label}: {self.count:,}{self.of_total} {self.unit}, {seconds:.1f} s"
        # Only a loop with a note reports its speed. In the others units are few, or differ much in duration.
        if self.note and self.count:
            speed = self.count / max(seconds, 1e-9)
            line += f", {speed:,.{0 if speed >= 10 else 1}f} {self.unit}/s, {self.note}"
        print(line, file=sys.stderr, flush=True)
