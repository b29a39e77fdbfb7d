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
def progress(what: str, unit: str, show: bool, total: int | None = None) -> Iterator[tqdm | _Lines]:
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


class _Lines:
    def __init__(self, what: str, unit: str, total: int | None):
        self.what, self.unit, self.of = what, unit, "" if total is None else f" of {total:,}"
        self.count = 0
        self.started = self.written = time.monotonic()

    def update(self, n: int = 1) -> None:
        self.count += n
        if time.monotonic() - self.written >= SECONDS_BETWEEN_LINES:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        seconds = self.written - self.started
        print(f"{self.what}: {self.count:,}{self.of} {self.unit}, {seconds:.1f} s", file=sys.stderr, flush=True)
