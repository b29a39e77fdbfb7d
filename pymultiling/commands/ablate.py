"""The command `ablate`: from neuron sets and texts to the languages' perplexities."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.command_run import documents_of, hashes, load, read_sets, record_of
from pymultiling.methods.ablation import ablation_matrix
from pymultiling.methods.means import mean_activations
from pymultiling.results import plots
from pymultiling.results.folders import result_folder
from pymultiling.results.tables import change_table, log_change, own_and_others, perplexity_table, with_random

if TYPE_CHECKING:
    import pandas


def run(arguments: Namespace) -> None:
    """Measures perplexities with each set off; writes the matrix, its change, and a heat map."""
    record = record_of("ablate", arguments)
    with result_folder(arguments.out) as folder:
        texts = dict(arguments.texts)
        record.note(
            corpora=hashes(texts | ({} if arguments.mean is None else {"mean": arguments.mean})), seed=arguments.random
        )
        sets = read_sets(arguments.neurons)
        model, tokenizer = load(arguments, record)
        if arguments.random is not None:
            sets = with_random(sets, arguments.random)
        change = {"scale": arguments.scale}
        if arguments.mean is not None:
            with record.stage("means"):
                change = {
                    "mean": mean_activations(model, tokenizer, arguments.mean, progress=True, **documents_of(arguments))
                }
        with record.stage("ablate"):
            perplexities = ablation_matrix(
                model, tokenizer, sets, texts, progress=True, **change, **documents_of(arguments)
            )
        with record.stage("write"):
            write_ablation(perplexities, folder)
        record.write(folder)
    print("perplexity", perplexity_table(perplexities), sep="\n", end="\n\n")
    print('change of log-perplexity against "none"', change_table(log_change(perplexities)), sep="\n")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def write_ablation(perplexities: pandas.DataFrame, folder: Path) -> None:
    """Writes perplexity.csv, log_change.csv, ablation.csv (`own_and_others`), and ablation.png."""
    change = log_change(perplexities)
    perplexities.to_csv(folder / "perplexity.csv", index_label="off")
    change.to_csv(folder / "log_change.csv", index_label="off")
    own_and_others(change).to_csv(folder / "ablation.csv", index_label="language")
    plots.save(plots.ablation(change), folder / "ablation.png")
