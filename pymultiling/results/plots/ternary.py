"""Plots of language-specific, language-related and general neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pymultiling.results.plots.figures import Plot

if TYPE_CHECKING:
    import pandas

    from pymultiling.methods.ternary import Ternary
    from pymultiling.methods.ternary_change import TernaryChange

# Colour and marker of each kind. Okabe and Ito's colours are distinct with all common kinds of colour blindness.
KINDS = {"specific": ("#0072b2", "o"), "related": ("#e69f00", "s"), "general": ("#009e73", "^")}
BEFORE, AFTER, NO_KIND = "#56b4e9", "#d55e00", "#999999"
SHADES = ("#ececec", "#ffffff")  # alternate between the parts


def ternary(result: Ternary, parts: Mapping[str, range] | None = None) -> Figure:
    """Plots neurons of each kind by layer, and a histogram of how many languages have a neuron.

    parts: {part: layers} of `pymultiling.ternary_parts`, drawn as bands behind the curves; None: no bands.
    """
    table = result.by_layer().set_index("layer")
    figure, left, right = _panels(len(table), len(result.histogram))
    _curves(left, {kind: table[kind] for kind in KINDS})
    left.set_ylim(0, 1.12 * max(table.to_numpy().max(), 1))  # leaves room for the numbers of the parts
    left.set_ylabel("selected neurons", fontsize=9)
    if parts:
        _bands(left, parts)
    last = len(result.histogram) - 1
    # The kinds of the neurons that 1, 2, ... or all languages have.
    kinds = ["specific", *["related"] * (last - 2), "general"]
    colours = [NO_KIND, *(KINDS[kind][0] for kind in kinds)]
    bars = right.bar(range(last + 1), result.histogram, width=0.8, color=colours)
    right.bar_label(bars, fmt="{:,.0f}", fontsize=7.5, padding=1)
    figure.suptitle("Language-specific, language-related and general neurons", fontsize=11)
    return figure


def ternary_change(change: TernaryChange) -> Figure:
    """Plots the change of each kind by layer, and histograms of how many languages have a neuron, before and after."""
    figure, left, right = _panels(change.layers["layer"].nunique(), len(change.histogram))
    groups = change.layers.groupby("kind", sort=False)
    _curves(left, {str(kind): rows.set_index("layer")["change"] for kind, rows in groups})
    left.axhline(0, color="black", linewidth=0.8, zorder=1)
    left.set_ylabel("change of the selected neurons", fontsize=9)
    languages = numpy.arange(len(change.histogram))
    for shift, column, colour in ((-0.21, "before", BEFORE), (0.21, "after", AFTER)):
        right.bar(languages + shift, change.histogram[column], width=0.4, color=colour, label=column)
    _legend(right)
    figure.suptitle("How the neurons of languages change", fontsize=11)
    return figure


def _panels(layers: int, bars: int) -> tuple[Figure, Axes, Axes]:
    """Makes a figure with a panel for curves over `layers` layers and a panel for a histogram of `bars` bars."""
    widths = min(max(4.8, 0.2 * layers), 12), max(2.8, 0.42 * bars)
    figure = Plot(figsize=(sum(widths) + 0.8, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=widths)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=8, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xlim(-0.5, layers - 0.5)
    left.set_xlabel("layer", fontsize=9)
    right.set_xticks(range(bars))
    right.set_xlabel("languages that have the neuron", fontsize=9)
    right.set_ylabel("selected neurons", fontsize=9)
    return figure, left, right


def _curves(axes: Axes, values_by_kind: Mapping[str, pandas.Series[float]]) -> None:
    """Draws a curve over the layers for each kind."""
    for kind, values in values_by_kind.items():
        colour, marker = KINDS[kind]
        axes.plot(values.index, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=kind)
    _legend(axes)


def _bands(axes: Axes, parts: Mapping[str, range]) -> None:
    """Shades and numbers the parts. Their names are below the axis, since they do not fit over narrow parts."""
    for number, layers in enumerate(parts.values(), 1):
        axes.axvspan(layers.start - 0.5, layers.stop - 0.5, color=SHADES[number % 2 - 1], zorder=0, linewidth=0)
        middle = (layers.start + layers.stop - 1) / 2
        axes.text(middle, 0.98, str(number), transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)
    key = ", ".join(f"{number} {name}" for number, name in enumerate(parts, 1))
    axes.set_xlabel(f"layer\n{key}", fontsize=9)


def _legend(axes: Axes) -> None:
    """Puts the legend above the panel, where it hides no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, fontsize=8, frameon=False)
