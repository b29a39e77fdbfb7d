"""Writes the result files of detections and ablations, for the commands `detect`, `ablate` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.results.tables import (
    HOW_TO_READ,
    change_table,
    compare_own_effects,
    log_change,
    own_effects_table,
    perplexity_table,
)

if TYPE_CHECKING:
    import pandas

    from pymultiling.methods.detection import Detection


def write_detection(detection: Detection, folder: Path, model: str | None) -> None:
    """Writes a detection into a folder: what `Detection.save` writes, and the plots neurons, specific and overlap.

    Args:
        detection: the detection.
        folder: an empty folder.
        model: the model's name or path, for the metadata of the neuron sets; None: it is unknown.
    """
    from pymultiling.methods.overlap import overlap
    from pymultiling.results import plots

    detection.save(folder, model)
    for name, sets in (("neurons", detection.neurons), ("specific", detection.specific())):
        save_plot(plots.neurons_by_layer(sets, plots.TITLES[name]), folder, name)
    save_plot(plots.overlap(*overlap(detection.neurons)), folder, "overlap")


def write_ablation(perplexities: pandas.DataFrame, folder: Path) -> None:
    """Writes three tables and a heat map of an ablation.

    perplexity.csv and log_change.csv have a row for each deactivated set, also for each random one (column "off"), and
    a column for each language. ablation.csv compares, for each language, the effect of its own neurons with that on
    other languages and with that of random neurons (`compare_own_effects`). The plot ablation shows log_change.csv,
    with the mean and the spread of the random sets.

    Args:
        perplexities: what `ablation_matrix` returns.
        folder: an existing folder.
    """
    from pymultiling.results import plots

    change = log_change(perplexities)
    perplexities.to_csv(folder / "perplexity.csv", index_label="off")
    change.to_csv(folder / "log_change.csv", index_label="off")
    compare_own_effects(change).to_csv(folder / "ablation.csv", index_label="language")
    save_plot(plots.ablation(change), folder, "ablation")


def print_ablation(perplexities: pandas.DataFrame) -> None:
    """Prints the tables of an ablation, at the end a line for each set with its effect on its own language.

    Args:
        perplexities: what `ablation_matrix` returns.
    """
    change = log_change(perplexities)
    print("Perplexity of texts in each language (columns) with each set of neurons deactivated (rows)\n")
    print(perplexity_table(perplexities), end="\n\n")
    print('The same as change of log-perplexity against the row "none"\n')
    print(change_table(change), end="\n\n")
    print(HOW_TO_READ, end="\n\n")
    print(own_effects_table(compare_own_effects(change)))
