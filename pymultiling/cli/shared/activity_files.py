"""Writes and prints counts of activations and kinds of neurons, for `count`, `classify` and `reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.plot_files import save_plot

if TYPE_CHECKING:
    import pandas

    from pymultiling.methods.ternary import Ternary
    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.sets import NeuronSet


def write_counts(counts: Mapping[str, ActivationStatistics], folder: Path, facts: Mapping[str, str]) -> None:
    """Writes the counts, two tables with one column per language, and a plot.

    counts/ gets one file per language. proportion.csv has one row per layer. most_active.csv says in how many positions
    the most active 1% of the neurons are active, with one row per neuron from the most active one down. `facts` become
    metadata of the counts.

    Args:
        counts: {language: counts}.
        folder: an existing folder.
        facts: such as the model's name.
    """
    import pandas

    from pymultiling.results import plots

    (folder / "counts").mkdir()
    for language, statistics in counts.items():
        statistics.save(folder / "counts" / f"{language}.safetensors", language=language, **facts)
    proportions = pandas.DataFrame({name: statistics.proportion.numpy() for name, statistics in counts.items()})
    proportions.to_csv(folder / "proportion.csv", index_label="layer")
    curves = pandas.DataFrame({name: statistics.most_active().counts.numpy() for name, statistics in counts.items()})
    curves.to_csv(folder / "most_active.csv", index_label="rank")
    save_plot(plots.activations(counts), folder, "activations")


def write_ternary(result: Ternary, folder: Path) -> dict[str, range] | None:
    """Writes the sets of each language and kind, the numbers by layer and by number of languages, and a plot.

    Args:
        result: what `ternary` returned.
        folder: an existing folder.

    Returns:
        The parts that `ternary_parts` proposes; None: there are too few layers.
    """
    from pymultiling.methods.ternary_parts import PART_NAMES, ternary_parts
    from pymultiling.results import plots

    save_sets(result.neurons, folder / "neurons")
    save_sets({"specific": result.specific, "related": result.related, "general": result.general}, folder / "kinds")
    by_layer = result.by_layer()
    by_layer.to_csv(folder / "by_layer.csv", index=False)
    histogram_table(result).to_csv(folder / "histogram.csv", index=False)
    parts: dict[str, range] | None = None
    if len(by_layer) >= len(PART_NAMES):
        parts = dict(ternary_parts(by_layer).items())
    save_plot(plots.ternary(result, parts), folder, "ternary")
    return parts


def print_ternary(result: Ternary, parts: dict[str, range] | None, is_auto: bool) -> None:
    """Prints the numbers by number of languages and by layer, and the parts.

    Args:
        result: what `ternary` returned.
        parts: what `write_ternary` returned.
        is_auto: whether lambda is the largest with which no general neuron is selected.
    """
    chosen = ", the largest with which no general neuron is selected" if is_auto and not len(result.general) else ""
    print(
        f"lambda {result.lam:g}{chosen}; a neuron belongs to a language if it is active in more than "
        f"{result.threshold:.1%} of the language's positions"
    )
    print(histogram_table(result).to_string(index=False), end="\n\n")
    print(result.by_layer().to_string(index=False))
    if parts is not None:
        print("\nfour parts in which these numbers are as even as possible, a proposal of what the layers do")
    for name, layers in (parts or {}).items():
        print(
            f"{name}: layers {layers.start} to {layers.stop - 1}" if len(layers) > 1 else f"{name}: layer {layers[0]}"
        )


def histogram_table(result: Ternary) -> pandas.DataFrame:
    """Returns the number of selected neurons for each number of languages."""
    import pandas

    return pandas.DataFrame({"languages": range(len(result.histogram)), "neurons": result.histogram})


def save_sets(sets: Mapping[str, NeuronSet], folder: Path) -> None:
    """Writes a file for each set into a new folder."""
    folder.mkdir()
    for name, neurons in sets.items():
        neurons.save(folder / f"{name}.safetensors", name=name)
