"""Plots of neuron sets: by layer and site, and shared neurons of languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.widths import width_range
from pymultiling.results.plots.figures import FEW, SEQUENTIAL, Plot, heat_map, panels, upright_if_narrow, write_in_cells

if TYPE_CHECKING:
    import pandas

TITLES = {
    "neurons": "Neurons selected for a language",
    "specific": "Neurons selected for one language alone",
}
SITE_NAMES = {"ffn": "FFN", "q": "attention q", "k": "attention k", "v": "attention v", "o": "attention o"}
SHALLOW = 16  # up to this many layers the sites are side by side and every cell shows its number


def neurons_by_layer(sets: Mapping[str, NeuronSet], title: str) -> Figure:
    """Plots a heat map for each site: a row for each language, a column for each layer.

    The colour is the percentage of a layer's neurons that are in the set.
    """
    first = next(iter(sets.values()))
    counts = {site: numpy.array([neurons.count("layer")[site] for neurons in sets.values()]) for site in first.sites}
    widths = {site: numpy.array(first.layer_widths(site)) for site in counts}
    percentages = {site: 100 * counts[site] / widths[site].clip(1) for site in counts}
    layers = next(iter(counts.values())).shape[1]
    is_shallow = layers <= SHALLOW
    figure, all_axes = panels(len(counts), rows=len(sets), columns=layers, across=is_shallow)
    norm = Normalize(0, max(values.max() for values in percentages.values()) or 1)
    for axes, (site, values) in zip(all_axes, percentages.items()):
        image = heat_map(axes, values, SEQUENTIAL, norm)
        axes.set_title(f"{SITE_NAMES[site]} ({width_range(widths[site].tolist())} a layer)", fontsize=9)
        axes.set_yticks(range(len(sets)), list(sets))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=16))
        if is_shallow:
            write_in_cells(axes, counts[site], image, "{:.0f}")
    bar = figure.colorbar(image, ax=all_axes, pad=0.012, fraction=0.03, aspect=20 if is_shallow else 50)
    bar.set_label("share of the layer's neurons (%)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"{title} (numbers: how many)" if is_shallow else title, fontsize=11)
    return figure


def overlap(counts: pandas.DataFrame, jaccard: pandas.DataFrame) -> Figure:
    """Plots `pymultiling.overlap`: a heat map of the sets' Jaccard indices.

    Up to 16 languages the cells have the numbers of shared neurons.
    """
    names, values = [str(name) for name in counts], jaccard.fillna(0).to_numpy()
    cell = 0.55 if len(names) <= FEW else 0.24  # inches
    side = 2.2 + cell * max(len(names), 4)
    figure = Plot(figsize=(side + 0.6, side - 0.4), layout="constrained")
    axes = figure.add_subplot()
    off_diagonal = values[~numpy.eye(len(names), dtype=bool)]
    image = heat_map(axes, values, SEQUENTIAL, Normalize(0, off_diagonal.max(initial=0) or 1))
    if len(names) <= FEW:
        write_in_cells(axes, counts.to_numpy(), image, "{:,}")
    axes.set_xticks(range(len(names)), names, rotation=upright_if_narrow(names, cell))
    axes.set_yticks(range(len(names)), names)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30, extend="max" if off_diagonal.size else "neither")
    bar.set_label("Jaccard index (scale: pairs of two languages)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title("Neurons that languages share", fontsize=11)
    return figure
