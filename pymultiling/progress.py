"""Progress: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(what: str, unit: str, show: bool, total: int | None = None) -> Iterator[tqdm]:
    """A bar to `update`; without a terminal one line at the end; nothing unless `show`."""
    terminal = sys.stderr.isatty()
    with tqdm(total=total, desc=what, unit=f" {unit}", disable=not (show and terminal), file=sys.stderr) as bar:
        count = 0
        update = bar.update

        def counted(n: int = 1) -> None:
            nonlocal count
            count += n
            update(n)

        bar.update = counted
        yield bar
    if show and not terminal:
        print(f"{what}: {count:,} {unit}", file=sys.stderr)
