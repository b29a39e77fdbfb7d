"""Plots of shared spaces by layer: interlingual local overlap, and the languages that layers decode to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pymultiling.results.plots.figures import COLOURS, SEQUENTIAL, Plot, heat_map

if TYPE_CHECKING:
    import pandas

# {column of the table: colour and marker of its curve}
CURVES = {"ilo": ("#0072b2", "o"), "bridge": ("#e69f00", "s"), "reach": ("#009e73", "^")}
SHOWN_LANGUAGES = 10  # how many languages have bars of their own
REST_COLOUR, OTHER_COLOUR = "#888888", "#e4e4e4"


def ilo(table: pandas.DataFrame) -> Figure:
    """Plots a heat map of ILO by language and layer, highest mean first, and above it the means over the languages.

    table: that of `pymultiling.ilo`.
    """
    values = table.pivot(index="language", columns="layer", values="ilo")
    values = values.loc[values.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    rows, columns = values.shape
    size = 2.2 + max(0.24 * columns, 3.6), 3.0 + 0.19 * max(rows, 5)
    figure = Plot(figsize=size, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 0.19 * max(rows, 5)))
    means = table.groupby("layer", sort=True)[list(CURVES)].mean()
    for name, (colour, marker) in CURVES.items():
        upper.plot(range(columns), means[name], color=colour, marker=marker, markersize=3.5, linewidth=1.3, label=name)
    upper.set_ylim(-0.03, 1.03)
    upper.set_ylabel("mean", fontsize=9)
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, fontsize=8, frameon=False)
    _tidy(upper)
    image = heat_map(lower, values.to_numpy(), SEQUENTIAL, Normalize(0, 1))
    lower.set_yticks(range(rows), list(values.index))
    step = 1 + (columns - 1) // 20  # at most 20 layers have a label
    lower.set_xticks(range(0, columns, step), list(values.columns)[::step])
    lower.set_xlabel("layer (0: embeddings)", fontsize=9)
    bar = figure.colorbar(image, ax=lower, pad=0.02, aspect=30)
    bar.set_label("ILO", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle("Interlingual local overlap", fontsize=11)
    return figure


def lens(table: pandas.DataFrame) -> Figure:
    """Plots the languages' shares of each layer as stacked bars.

    The ten languages with the highest share in any layer have bars of their own. The other languages are added up as
    "N more". The bar "other" is for tokens that say nothing about the language.

    table: that of `pymultiling.lens`.
    """
    shares = table.pivot(index="layer", columns="language", values="share")
    languages = shares.drop(columns="other", errors="ignore")
    shown = list(languages.max().sort_values(ascending=False, kind="stable").index[:SHOWN_LANGUAGES])
    shown.sort(key=lambda code: -languages[code].iloc[-1])
    # Languages for which there is no further colour reuse the first ones with hatches.
    bars = [(code, languages[code], COLOURS[n % len(COLOURS)], "" if n < len(COLOURS) else "////")
             for n, code in enumerate(shown)]  # fmt: skip
    if rest := [code for code in languages if code not in shown]:
        bars.append((f"{len(rest)} more", languages[rest].sum(axis=1), REST_COLOUR, ""))
    if "other" in shares:
        bars.append(("other", shares["other"], OTHER_COLOUR, ""))
    figure = Plot(figsize=(2 + min(max(0.4 * len(shares), 3.6), 11), 3.9), layout="constrained")
    axes = figure.add_subplot()
    bottom = numpy.zeros(len(shares))
    for name, values, colour, hatch in bars:
        axes.bar(
            shares.index,
            values,
            bottom=bottom,
            width=0.9,
            label=name,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
        bottom += values.to_numpy()
    axes.set_xlim(shares.index.min() - 0.6, shares.index.max() + 0.6)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, min_n_ticks=1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("layer (0: embeddings)", fontsize=9)
    axes.set_ylabel("share of the decoded tokens", fontsize=9)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _tidy(axes)
    figure.suptitle("The languages that the layers decode to", fontsize=11)
    return figure


def _tidy(axes: Axes) -> None:
    axes.tick_params(labelsize=8, length=2)
    axes.spines[["top", "right"]].set_visible(False)
