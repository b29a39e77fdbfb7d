"""Heat maps, panels and the writing of figures, for all plots. pyplot and its global state are not used.

Sizes of figures are in inches: the plots add room for names, titles and the colour bar to the room for the cells or
bars.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pymultiling.results.plots.fonts import add_fonts
from pymultiling.runtime.storage import write_atomically

SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"  # legible with all common kinds of colour blindness
# Okabe and Ito's colours, distinct with all common kinds of colour blindness.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
FEW = 16  # up to so many languages cells have numbers, and panels are in one column
# {format: what savefig gets, so that equal figures are equal files}
FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}


class Plot(Figure):
    """A figure that notebooks show. They show other figures only if pyplot made them."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        _write(self, picture, format="png", dpi=144)
        return picture.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Writes a figure to a file: PNG, SVG or PDF, as the ending of its name says.

    Names in scripts that matplotlib's font lacks get fonts of the system.

    Raises:
        ValueError: the name has another ending.
    """
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise ValueError(f"{path.name}: a plot is a file .png, .svg or .pdf; give it one of these endings")
    with write_atomically(path) as partial, rc_context({"svg.hashsalt": path.stem}):
        _write(figure, partial, format=form, **FORMATS[form])


def _write(figure: Figure, file: Path | BytesIO, **options: Any) -> None:
    add_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # `add_fonts` has named them
        figure.savefig(file, bbox_inches="tight", **options)


def panels(count: int, rows: int, columns: int, across: bool) -> tuple[Figure, list[Axes]]:
    """Makes equal panels for heat maps of `rows` x `columns` cells: side by side if `across`, else below each other.

    High panels that are not side by side are in three columns.
    """
    # Of a panel, in inches. Cells have room for a number if `across`, with 0.3 between two panels. In one column cells
    # are narrower, for many layers, and each panel has 0.4 for its title.
    width, height = (0.3 + 0.36 * columns, 0.28 * rows) if across else (0.11 * columns, 0.4 + 0.17 * rows)
    grid_columns = count if across else min(count, 1 if rows <= FEW else 3)
    grid_rows = math.ceil(count / grid_columns)
    # 1.6 for the names of the rows and the colour bar, 1.2 for the title and the columns' numbers; 6 for a long title.
    size = max(1.6 + width * grid_columns, 6), max(1.2 + height * grid_rows, 2.6)
    figure = Plot(figsize=size, layout="constrained")
    grid = figure.subplots(grid_rows, grid_columns, sharex=True, sharey=True, squeeze=False)
    all_axes: list[Axes] = list(grid.flat)
    for axes in all_axes[count:]:
        axes.remove()
    for axes in all_axes[max(count - grid_columns, 0) : count]:  # below which there is no panel
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer", fontsize=9)
    return figure, all_axes[:count]


def upright_if_narrow(names: Sequence[str], width: float) -> int:
    """Returns the angle of names below columns of this width in inches: 90 if one is wider, else 0."""
    return 90 if max(map(len, names)) * 0.08 > width else 0  # 0.08: a letter of 8 points, with room


def heat_map(axes: Axes, values: numpy.ndarray, colours: str, norm: Normalize) -> AxesImage:
    """Draws a heat map with white lines between the cells. Row 0 is at the top."""
    image = axes.imshow(values, colours, norm, aspect="auto", interpolation="nearest")
    rows, columns = values.shape
    axes.hlines(numpy.arange(rows - 1) + 0.5, -0.5, columns - 0.5, color="white", linewidth=1)
    axes.vlines(numpy.arange(columns - 1) + 0.5, -0.5, rows - 0.5, color="white", linewidth=1 if columns < 40 else 0.4)
    axes.tick_params(labelsize=8, length=2)
    axes.spines[:].set_linewidth(0.6)
    return image


def write_in_cells(axes: Axes, values: numpy.ndarray, image: AxesImage, form: str) -> None:
    """Writes a value into each cell of a heat map. form: format string of a value, such as "{:+.2f}"."""
    write_texts_in_cells(axes, [[form.format(value) for value in row] for row in values], image)


def write_texts_in_cells(axes: Axes, texts: Sequence[Sequence[str]], image: AxesImage) -> None:
    """Writes a text into each cell of a heat map, in black on light cells and in white on dark ones.

    A text of two lines is written smaller.
    """
    colours = numpy.asarray(image.cmap(image.norm(numpy.ma.asarray(image.get_array()))))
    brightness = colours[..., :3] @ (0.299, 0.587, 0.114)  # luma of red, green and blue (ITU-R BT.601)
    for (row, column), luma in numpy.ndenumerate(brightness):
        text, colour = texts[row][column], "white" if luma < 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=5 if "\n" in text else 7.5, color=colour)
