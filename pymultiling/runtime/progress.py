"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30  # where there is no terminal, so that a log of a long run stays short


@contextmanager
def show_progress(what: str, unit: str, show: bool, total: int | None = None) -> Iterator[tqdm | _Lines]:
    """Something to `update` by what was done; a bar, or a line now and then and one at the end; silent unless `show`."""
    if show and not sys.stderr.isatty():
        lines = _Lines(what, unit, total)
        yield lines
        lines.write()
        return
    columns, lines = shutil.get_terminal_size()  # 80 and 24 where the terminal does not say; tqdm would show nothing
    with tqdm(
        total=total, desc=what, unit=f" {unit}", disable=not show, file=sys.stderr, ncols=columns, nrows=lines
    ) as bar:
        yield bar


def say(line: str, show: bool) -> None:
    """A line of its own."""
    if show:
        tqdm.write(line, file=sys.stderr)


class Pace:
    """Says on the bars of a job how fast tokens go by, and how long the whole job will take where that is known."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._tokens = 0
        self._first: float | None = None

    def update(self, bar: tqdm | _Lines, documents: int, tokens: int, done: float | None) -> None:
        """So many more documents and tokens; `done`: the part of the whole job that is behind, 0 to 1, or None."""
        self._tokens += tokens
        seconds = max(time.monotonic() - self._started, 1e-9)
        note = f"{self._tokens / seconds:,.0f} tokens/s"
        self._first = done if self._first is None else self._first
        if done is not None and self._first < done < 1:  # in front: what does not fit on a line is cut
            note = f"{duration(seconds * (1 - done) / (done - self._first))} left, {note}"
        bar.set_postfix_str(note, refresh=False)
        bar.update(documents)


def duration(seconds: float) -> str:
    """In the largest unit that gives at least two of it: 90 s, 12 min, 30 h, 4 days."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class _Lines:
    def __init__(self, what: str, unit: str, total: int | None):
        self.what, self.unit, self.of = what, unit, "" if total is None else f" of {total:,}"
        self.count, self.note = 0, ""
        self.started = self.written = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.count += n
        if time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self.write()

    def set_postfix_str(self, note: str, refresh: bool = False) -> None:
        self.note = note

    def write(self) -> None:
        self.written = time.monotonic()
        seconds = self.written - self.started
        line = f"{self.what}: {self.count:,}{self.of} {self.unit}, {seconds:.1f} s"
        if self.note:
            line += f", {self.count / max(seconds, 1e-9):,.0f} {self.unit}/s, {self.note}"
        print(line, file=sys.stderr, flush=True)
