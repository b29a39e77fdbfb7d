"""Plots of what switching neurons off does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pymultiling.results.plots.figures import DIVERGING, SEQUENTIAL, heat_map, write
from pymultiling.results.tables import random_name, setting_name

if TYPE_CHECKING:
    import pandas


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
    image = heat_map(axes, values, DIVERGING if both_ways else SEQUENTIAL, norm)
    write(axes, values.round(2) + 0.0, image, "{:+.2f}")  # + 0.0: no minus before a zero
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
