"""What the plots share: heat maps, panels, and how figures are written. Figures are objects; pyplot is not used."""

from __future__ import annotations

from pathlib import Path

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pymultiling.runtime.storage import write_atomically

SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"  # both legible with every common kind of colour blindness


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG."""
    with write_atomically(path) as partial:
        figure.savefig(partial, format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})


def panels(count: int, rows: int, columns: int, across: bool) -> tuple[Figure, list[Axes]]:
    """Equal panels, beside or above each other, for heat maps of so many rows and columns."""
    width, height = (0.3 + 0.36 * columns, 0.28 * rows) if across else (0.11 * columns, 0.4 + 0.17 * rows)
    down, side = (1, count) if across else (count, 1)
    figure = Figure(figsize=(max(1.6 + width * side, 6), max(1.2 + height * down, 2.6)), layout="constrained")
    grid = figure.subplots(down, side, sharex=True, sharey=True, squeeze=False)
    return figure, list(grid.flat)


def heat_map(axes: Axes, values: numpy.ndarray, colours: str, norm: Normalize) -> AxesImage:
    """Cells parted by white lines; in the order of reading."""
    image = axes.imshow(values, colours, norm, aspect="auto", interpolation="nearest")
    rows, columns = values.shape
    axes.hlines(numpy.arange(rows - 1) + 0.5, -0.5, columns - 0.5, color="white", linewidth=1)
    axes.vlines(numpy.arange(columns - 1) + 0.5, -0.5, rows - 0.5, color="white", linewidth=1 if columns < 40 else 0.4)
    axes.tick_params(labelsize=8, length=2)
    axes.spines[:].set_linewidth(0.6)
    return image


def write(axes: Axes, values: numpy.ndarray, image: AxesImage, form: str) -> None:
    """Each cell's number, dark on light or light on dark."""
    shades = image.cmap(image.norm(image.get_array()))[..., :3] @ (0.299, 0.587, 0.114)
    for (row, column), value in numpy.ndenumerate(values):
        colour = "white" if shades[row, column] < 0.5 else "black"
        axes.text(column, row, form.format(value), ha="center", va="center", fontsize=7.5, color=colour)
