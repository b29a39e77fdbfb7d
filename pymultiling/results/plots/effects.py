"""Plots of the effects of deactivated neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pymultiling.methods.random_sets import draws_by_set
from pymultiling.results.plots.figures import (
    COLOURS,
    DIVERGING,
    FEW,
    SEQUENTIAL,
    Plot,
    heat_map,
    upright_if_narrow,
    write_texts_in_cells,
)
from pymultiling.results.tables import mean_of_draws, setting_name

if TYPE_CHECKING:
    import pandas


def ablation(change: pandas.DataFrame) -> Figure:
    """Plots `tables.log_change` as a heat map: a row for each deactivated set, a column for each language of the text.

    The random sets of a set have one row, with their mean, and below it their smallest and largest value. The cells of
    a language's own set and of the random sets of the same size are framed. Up to 16 languages the cells have numbers.
    """
    draws = {f"random as {name}": rows for name, rows in draws_by_set(change.index).items()}
    means = mean_of_draws(change)
    values = means.to_numpy()
    rows, columns = values.shape
    width, height = (0.62, 0.32) if columns <= FEW else (0.24, 0.18)  # of a cell, in inches
    figure = Plot(figsize=(2.4 + width * max(columns, 4), 1.4 + height * max(rows, 7)), layout="constrained")
    axes = figure.add_subplot()
    low, high = values.min(), max(values.max(), 1e-6)
    has_gains = -low > high / 10  # smaller gains do not need the half of the scale that is below zero
    norm = Normalize(-max(-low, high), max(-low, high)) if has_gains else Normalize(0, high)
    image = heat_map(axes, values, DIVERGING if has_gains else SEQUENTIAL, norm)
    texts = [[f"{value:+.2f}" for value in row] for row in values.round(2) + 0.0]  # + 0.0 turns -0.0 into 0.0
    for row, name in enumerate(means.index):
        if len(draws.get(name, ())) > 1:
            lowest, highest = change.loc[draws[name]].min(), change.loc[draws[name]].max()
            spreads = [f"{low:+.2f} to {high:+.2f}" for low, high in zip(lowest.round(2) + 0.0, highest.round(2) + 0.0)]
            texts[row] = [f"{mean}\n{spread}" for mean, spread in zip(texts[row], spreads)]
    if columns <= FEW:
        write_texts_in_cells(axes, texts, image)
    names = [str(name) for name in means.columns]
    axes.set_xticks(range(columns), names, rotation=upright_if_narrow(names, width))
    axes.set_yticks(range(rows), list(means.index))
    axes.set_xlabel("language of the text", fontsize=9)
    axes.set_ylabel("neurons switched off", fontsize=9)
    for row, name in enumerate(means.index):
        for column, language in enumerate(means.columns):
            if name in (language, f"random as {language}"):
                frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color="black", linewidth=1.4, zorder=3)
                axes.add_patch(frame)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=20 if columns <= FEW else 40)
    bar.set_label("change of log-perplexity (nats a token)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title("What switching neurons off does to each language", fontsize=11)
    return figure


def mwork(table: pandas.DataFrame) -> Figure:
    """Plots the table of `pymultiling.mwork`: for each task, the changes in English and in the other languages."""
    labels = [f"{task}, {metric}" for task, metric in zip(table["task"], table["metric"])]
    # The first row of each task is the model with all its neurons.
    rows_by_label = {label: rows.iloc[1:] for label, rows in table.groupby(labels, sort=False)}
    row_count = len(next(iter(rows_by_label.values())))
    figure = Plot(figsize=(3.4 + 3.4 * len(rows_by_label), 1.3 + 0.27 * row_count), layout="constrained")
    heights = numpy.arange(row_count)
    panels = figure.subplots(1, len(rows_by_label), sharey=True, squeeze=False)[0]
    for number, (axes, (label, rows)) in enumerate(zip(panels, rows_by_label.items())):
        for shift, column, colour, legend in (
            (-0.2, "d_english", COLOURS[0], "English"),
            (0.2, "d_others", COLOURS[1], "the others, mean"),
        ):
            axes.barh(heights + shift, rows[column], height=0.38, color=colour, label=legend)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("change of the score", fontsize=9)
        axes.tick_params(labelsize=8, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 0:
            axes.set_yticks(heights, [setting_name(row) for _, row in rows.iterrows()])
            axes.invert_yaxis()
            axes.legend(fontsize=8, loc="best", frameon=False)
    figure.suptitle("What parts of the model are for: neurons switched off by part", fontsize=11)
    return figure
