"""Plots of how often neurons are active: by layer, by rank, and by number of input languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.results.plots.figures import COLOURS, SEQUENTIAL, Plot, heat_map
from pymultiling.results.tables import POSITION_LABELS

if TYPE_CHECKING:
    import pandas

MARKERS = "osD^vP*X"
MOST_CURVES = 8
# {column of the table of `pmi.compare`: its name in the plot}
METRIC_LABELS = {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET", "accuracy": "accuracy"}


def activations(statistics: Mapping[str, ActivationStatistics]) -> Figure:
    """Plots active neurons by layer, and how often each of the most active 1% is active.

    Up to eight names have a curve each, more have rows of heat maps.
    """
    if len(statistics) > MOST_CURVES:
        figure = Plot(figsize=(11, 1.6 + 0.17 * len(statistics)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _maps(figure, left, right, statistics)
    else:
        figure = Plot(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, right, statistics)
        _legend(right, len(statistics))
    figure.suptitle("How often neurons are active", fontsize=11)
    return figure


def pmi(table: pandas.DataFrame, statistics: Mapping[str, ActivationStatistics], positions: str) -> Figure:
    """Plots the result of `pmi.compare`.

    The upper panels show active neurons and metric values against the number of input languages, the lower ones the
    curves of `activations` for each kind of prompt.
    """
    metrics = [name for name in METRIC_LABELS if name in table]
    figure = Plot(figsize=(10, 7.4 if metrics else 7), layout="constrained")
    ((upper_left, upper_right), (lower_left, lower_right)) = figure.subplots(2, 2)
    _against_languages(upper_left, table, ["proportion"], f"active neurons at {POSITION_LABELS[positions]}")
    upper_left.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if metrics:
        _against_languages(upper_right, table, metrics, "score (%)")
    else:
        _against_languages(upper_right, table, ["top_share"], "share of all activations")
        upper_right.set_title("The most active 1% of the neurons", fontsize=10)
        upper_right.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _curves(lower_left, lower_right, statistics)
    _legend(lower_right, len(statistics))
    figure.suptitle("Parallel input: what more languages in the prompt do", fontsize=11)
    return figure


def _against_languages(axes: Axes, table: pandas.DataFrame, columns: list[str], label: str) -> None:
    """Draws direct and PMI-k prompts as a line, and the pivot prompt, which has another language, as points."""
    line = table[table["prompt"] != "pivot"]
    pivot = table[table["prompt"] == "pivot"]
    for number, column in enumerate(columns):
        colour = COLOURS[number]
        axes.plot(
            line["languages"], line[column], color=colour, marker=MARKERS[number], label=METRIC_LABELS.get(column)
        )
        axes.plot(pivot["languages"], pivot[column], color=colour, marker="x", linestyle="", markersize=9,
                  label=None if number or pivot.empty else "pivot alone")  # fmt: skip
    axes.set_xlabel("languages in the prompt (1: the source alone)", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes)
    if len(columns) > 1 or not pivot.empty:
        axes.legend(fontsize=8, frameon=False)


def _curves(left: Axes, right: Axes, statistics: Mapping[str, ActivationStatistics]) -> None:
    """Draws the panels of `activations`: active neurons by layer, and the frequencies of the most active 1% by rank."""
    lowest_frequency = 1.0
    for (name, counts), colour in zip(statistics.items(), _colours(len(statistics))):
        line = "--" if name == "pivot" else "-"
        left.plot(counts.proportion.numpy(), label=name, color=colour, linewidth=1.4, linestyle=line)
        top = counts.most_active()
        frequency = top.counts.numpy() / counts.tokens
        lowest_frequency = min(lowest_frequency, frequency[-1])
        rank = 100 * numpy.arange(1, len(frequency) + 1) / counts.neurons
        right.plot(rank, frequency, label=f"{name} ({top.share:.1%})", color=colour, linewidth=1.4, linestyle=line)
    left.set_title("Active neurons by layer", fontsize=10)
    left.set_xlabel("layer", fontsize=9)
    left.set_ylabel("share of the layer's neurons, mean", fontsize=9)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_title("The most active 1% (their share of all activations)", fontsize=10)
    right.set_xlabel("rank (% of all neurons)", fontsize=9)
    right.set_ylabel("share of the positions", fontsize=9)
    # If all curves are near 100%, a fixed lower end keeps tiny differences from looking large.
    right.set_ylim(None if lowest_frequency < 0.95 else 0.95, 1.005)
    for axes in (left, right):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        _tidy(axes)


def _maps(figure: Figure, left: Axes, right: Axes, statistics: Mapping[str, ActivationStatistics]) -> None:
    """Draws what `_curves` draws as heat maps with a row for each name."""
    proportion = numpy.array([counts.proportion.numpy() for counts in statistics.values()])
    top = {name: counts.most_active() for name, counts in statistics.items()}
    frequency = numpy.array([top[name].counts.numpy() / counts.tokens for name, counts in statistics.items()])
    ranks = frequency.shape[1]
    frequency = frequency[:, numpy.linspace(0, ranks - 1, min(ranks, 50)).astype(int)]
    for axes, values, title in (
        (left, proportion, "Active neurons by layer (share, mean)"),
        (right, frequency, "The most active 1% (share of the positions)"),
    ):
        image = heat_map(axes, values, SEQUENTIAL, Normalize(values.min(), values.max()))
        axes.set_title(title, fontsize=10)
        bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=40, format=PercentFormatter(1, decimals=None))
        bar.ax.tick_params(labelsize=8)
    left.set_yticks(range(len(statistics)), list(statistics))
    left.set_xlabel("layer", fontsize=9)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_yticks(range(len(statistics)), [f"{name} ({each.share:.1%})" for name, each in top.items()])
    last = ranks / next(iter(statistics.values())).neurons
    right.set_xticks(
        (0, (frequency.shape[1] - 1) / 2, frequency.shape[1] - 1), [f"{part * last:.1%}" for part in (0, 0.5, 1)]
    )
    right.set_xlabel("rank (of all neurons); names: their share of all activations", fontsize=9)


def _colours(count: int) -> list[tuple[float, float, float, float]]:
    """Returns colours from dark to light, since curves often have an order, and all readers can see brightness."""
    return list(colormaps["viridis"](numpy.linspace(0, 0.85, count)))


def _legend(axes: Axes, count: int) -> None:
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (count - 1) // 20)


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=8, length=2)
    axes.spines[["top", "right"]].set_visible(False)
