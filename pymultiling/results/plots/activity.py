"""Plots of how often neurons are active: by layer, the most active ones, and against the number of input languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.results.tables import POSITION_LABELS

if TYPE_CHECKING:
    import pandas

MARKERS = "osD^vP*X"
SCORES = {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET", "accuracy": "accuracy"}


def activations(statistics: Mapping[str, ActivationStatistics]) -> Figure:
    """Two panels, a curve for each of the names: active neurons by layer; the most active 1%, from the first down."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _curves(left, right, statistics)
    _legend(right, len(statistics))
    figure.suptitle("How often neurons are active", fontsize=11)
    return figure


def pmi(table: pandas.DataFrame, statistics: Mapping[str, ActivationStatistics], positions: str) -> Figure:
    """What `pmi.compare` found: active neurons and scores against the number of input languages, and curves by prompt."""
    names = [name for name in SCORES if name in table]
    figure = Figure(figsize=(10, 7.4 if names else 7), layout="constrained")
    ((upper, other), (lower, right)) = figure.subplots(2, 2)
    _against_languages(upper, table, ["proportion"], f"active neurons at {POSITION_LABELS[positions]}")
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    if names:
        _against_languages(other, table, names, "score (%)")
    else:
        _against_languages(other, table, ["top_share"], "share of all activations")
        other.set_title("The most active 1% of the neurons", fontsize=10)
        other.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _curves(lower, right, statistics)
    _legend(right, len(statistics))
    figure.suptitle("Parallel input: what more languages in the prompt do", fontsize=11)
    return figure


def _against_languages(axes: Axes, table: pandas.DataFrame, columns: list[str], label: str) -> None:
    """Direct and PMI-k as a line, the pivot, which shows another language alone, as a point beside it."""
    line = table[table["prompt"] != "pivot"]
    pivot = table[table["prompt"] == "pivot"]
    for number, column in enumerate(columns):
        colour = f"C{number}"
        axes.plot(line["languages"], line[column], color=colour, marker=MARKERS[number], label=SCORES.get(column))
        axes.plot(pivot["languages"], pivot[column], color=colour, marker="x", linestyle="", markersize=9,
                  label=None if number or pivot.empty else "pivot alone")  # fmt: skip
    axes.set_xlabel("languages in the prompt (1: the source alone)", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes)
    if len(columns) > 1 or not pivot.empty:
        axes.legend(fontsize=8, frameon=False)


def _curves(left: Axes, right: Axes, statistics: Mapping[str, ActivationStatistics]) -> None:
    lowest = 1.0
    for (name, one), colour in zip(statistics.items(), _colours(len(statistics))):
        style = {"color": colour, "linewidth": 1.4, "linestyle": "--" if name == "pivot" else "-"}
        left.plot(one.proportion.numpy(), label=name, **style)
        top = one.most_active()
        frequency = top.counts.numpy() / one.tokens
        lowest = min(lowest, frequency[-1])
        rank = 100 * numpy.arange(1, len(frequency) + 1) / one.active.numel()
        right.plot(rank, frequency, label=f"{name} ({top.share:.1%})", **style)
    left.set_title("Active neurons by layer", fontsize=10)
    left.set_xlabel("layer", fontsize=9)
    left.set_ylabel("share of the layer's neurons, mean", fontsize=9)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_title("The most active 1% (their share of all activations)", fontsize=10)
    right.set_xlabel("rank (% of all neurons)", fontsize=9)
    right.set_ylabel("share of the positions", fontsize=9)
    right.set_ylim(None if lowest < 0.95 else 0.95, 1.005)
    for axes in (left, right):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        _tidy(axes)


def _colours(count: int) -> list:
    """In order from dark to light: what is compared often has an order, and every eye sees it."""
    return list(colormaps["viridis"](numpy.linspace(0, 0.85, count)))


def _legend(axes: Axes, count: int) -> None:
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (count - 1) // 20)


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=8, length=2)
    axes.spines[["top", "right"]].set_visible(False)
