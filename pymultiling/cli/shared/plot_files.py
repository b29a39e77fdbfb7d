"""The option --format of the commands that draw, and the files of their plots."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

_format: ContextVar[str] = ContextVar("_format", default=FORMATS[0])


def add_format(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the format of the plots."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="file format of the plots: png (pixels), or svg or pdf (lines and letters, sharp at any size) "
        "(default: %(default)s)",
    )


@contextmanager
def plots_as(form: str) -> Iterator[None]:
    """Inside, `save_plot` writes this format, one of FORMATS."""
    token = _format.set(form)
    try:
        yield
    finally:
        _format.reset(token)


def save_plot(figure: Figure, folder: Path, name: str) -> None:
    """Writes a plot into a folder. name: the file's name, without the ending, which the format gives."""
    from pymultiling.results.plots import save

    save(figure, folder / f"{name}.{_format.get()}")
