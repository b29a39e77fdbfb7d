"""Plots: neurons by layer and site, and what switching them off does. Figures are objects; pyplot is not used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pymultiling.neurons import NeuronSet
from pymultiling.report import random_name, setting_name

if TYPE_CHECKING:
    import pandas

TITLES = {
    "neurons": "Neurons selected for a language",
    "specific": "Neurons selected for one language alone",
}
SITE_NAMES = {"ffn": "FFN", "q": "attention q", "k": "attention k", "v": "attention v", "o": "attention o"}
SEQUENTIAL, DIVERGING = "Blues", "RdBu_r"  # both legible with every common kind of colour blindness
SHALLOW = 16  # layers, up to which the sites stand side by side and every cell has its number


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG."""
    figure.savefig(path, dpi=200, bbox_inches="tight", metadata={"Software": None})


def neurons_by_layer(sets: Mapping[str, NeuronSet], title: str) -> Figure:
    """A panel for each site: languages down, layers across, colour the share of a layer's neurons in the set."""
    some = next(iter(sets.values()))
    counts = {site: numpy.array([one.count("layer")[site] for one in sets.values()]) for site in some.sites}
    shares = {site: 100 * counts[site] / some.sites[site].shape[1] for site in counts}
    layers = next(iter(counts.values())).shape[1]
    shallow = layers <= SHALLOW
    figure, panels = _panels(len(counts), rows=len(sets), columns=layers, across=shallow)
    norm = Normalize(0, max(share.max() for share in shares.values()) or 1)
    for axes, (site, share) in zip(panels, shares.items()):
        image = _heat_map(axes, share, SEQUENTIAL, norm)
        axes.set_title(f"{SITE_NAMES[site]} ({some.sites[site].shape[1]:,} a layer)", fontsize=9)
        axes.set_yticks(range(len(sets)), list(sets))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
        if shallow:
            _write(axes, counts[site], image, "{:.0f}")
    for axes in panels if shallow else panels[-1:]:
        axes.set_xlabel("layer", fontsize=9)
    bar = figure.colorbar(image, ax=panels, pad=0.012, fraction=0.03, aspect=20 if shallow else 50)
    bar.set_label("share of the layer's neurons (%)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title} (numbers: how many)" if shallow else title, fontsize=11)
    return figure


def ablation(change: pandas.DataFrame) -> Figure:
    """Heat map of `report.log_change`: sets that are off down, languages of the text across.

    A language's own neurons are framed, and so are the random ones drawn to compare with them.
    """
    values = change.to_numpy()
    rows, columns = values.shape
    figure = Figure(figsize=(2.4 + 0.62 * max(columns, 4), 1.4 + 0.32 * max(rows, 7)), layout="constrained")
    axes = figure.add_subplot()
    low, high = values.min(), max(values.max(), 1e-6)
    both_ways = -low > high / 10
    norm = Normalize(-max(-low, high), max(-low, high)) if both_ways else Normalize(0, high)
    image = _heat_map(axes, values, DIVERGING if both_ways else SEQUENTIAL, norm)
    _write(axes, values.round(2) + 0.0, image, "{:+.2f}")  # + 0.0: no minus before a zero
    axes.set_xticks(range(columns), list(change.columns))
    axes.set_yticks(range(rows), list(change.index))
    axes.set_xlabel("language of the text", fontsize=9)
    axes.set_ylabel("neurons switched off", fontsize=9)
    for row, name in enumerate(change.index):
        for column, language in enumerate(change.columns):
            if name in (language, random_name(language)):
                frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color="black", linewidth=1.4, zorder=3)
                axes.add_patch(frame)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label("change of log-perplexity (nats a token)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title("What switching neurons off does to each language", fontsize=11)
    return figure


def overlap(counts: pandas.DataFrame, jaccard: pandas.DataFrame) -> Figure:
    """Heat map of `pymultiling.overlap`: sets down and across, colour the Jaccard index, numbers the shared neurons."""
    names, values = list(counts), jaccard.fillna(0).to_numpy()
    side = 2.2 + 0.55 * max(len(names), 4)
    figure = Figure(figsize=(side + 0.6, side - 0.4), layout="constrained")
    axes = figure.add_subplot()
    apart = values[~numpy.eye(len(names), dtype=bool)]
    image = _heat_map(axes, values, SEQUENTIAL, Normalize(0, apart.max(initial=0) or 1))
    _write(axes, counts.to_numpy(), image, "{:,}")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=axes, pad=0.02, extend="max" if apart.size else "neither")
    bar.set_label("Jaccard index (scale: pairs of two languages)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title("Neurons that languages share", fontsize=11)
    return figure


def mwork(table: pandas.DataFrame) -> Figure:
    """A panel for each task of `pymultiling.mwork`: changes in English and in the others, row by row of its table."""
    tasks = [f"{task}, {metric}" for task, metric in zip(table["task"], table["metric"])]
    of_tasks = {name: rows.iloc[1:] for name, rows in table.groupby(tasks, sort=False)}  # the first has nothing off
    rows = next(iter(of_tasks.values()))
    figure = Figure(figsize=(3.4 + 3.4 * len(of_tasks), 1.3 + 0.27 * len(rows)), layout="constrained")
    places = numpy.arange(len(rows))
    panels = figure.subplots(1, len(of_tasks), sharey=True, squeeze=False)[0]
    for number, (axes, (task, of_task)) in enumerate(zip(panels, of_tasks.items())):
        for shift, column, colour, label in (
            (-0.2, "d_english", "#4c72b0", "English"),
            (0.2, "d_others", "#c44e52", "the others, mean"),
        ):
            axes.barh(places + shift, of_task[column], height=0.38, color=colour, label=label)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("change of the score", fontsize=9)
        axes.tick_params(labelsize=8, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0:
            axes.set_yticks(places, [setting_name(row) for _, row in of_task.iterrows()])
            axes.invert_yaxis()
            axes.legend(fontsize=8, loc="best", frameon=False)
    figure.suptitle("What parts of the model are for: neurons switched off by part", fontsize=11)
    return figure


def _panels(count: int, rows: int, columns: int, across: bool) -> tuple[Figure, list[Axes]]:
    """Equal panels, beside or above each other, for heat maps of so many rows and columns."""
    width, height = (0.3 + 0.36 * columns, 0.28 * rows) if across else (0.11 * columns, 0.4 + 0.17 * rows)
    down, side = (1, count) if across else (count, 1)
    figure = Figure(figsize=(max(1.6 + width * side, 6), max(1.2 + height * down, 2.6)), layout="constrained")
    grid = figure.subplots(down, side, sharex=True, sharey=True, squeeze=False)
    return figure, list(grid.flat)


def _heat_map(axes: Axes, values: numpy.ndarray, colours: str, norm: Normalize) -> AxesImage:
    """Cells parted by white lines; in the order of reading."""
    image = axes.imshow(values, colours, norm, aspect="auto", interpolation="nearest")
    rows, columns = values.shape
    axes.hlines(numpy.arange(rows - 1) + 0.5, -0.5, columns - 0.5, color="white", linewidth=1)
    axes.vlines(numpy.arange(columns - 1) + 0.5, -0.5, rows - 0.5, color="white", linewidth=1 if columns < 40 else 0.4)
    axes.tick_params(labelsize=8, length=2)
    axes.spines[:].set_linewidth(0.6)
    return image


def _write(axes: Axes, values: numpy.ndarray, image: AxesImage, form: str) -> None:
    """Each cell's number, dark on light or light on dark."""
    shades = image.cmap(image.norm(image.get_array()))[..., :3] @ (0.299, 0.587, 0.114)
    for (row, column), value in numpy.ndenumerate(values):
        colour = "white" if shades[row, column] < 0.5 else "black"
        axes.text(column, row, form.format(value), ha="center", va="center", fontsize=7.5, color=colour)
