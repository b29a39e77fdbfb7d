"""The command `count`: from corpora to how often every FFN neuron is active."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from pymultiling.cli.command_run import hashes_of_files, load, pass_of, record_of
from pymultiling.methods.activations import Activations, activations
from pymultiling.results import plots
from pymultiling.results.folders import check_free, result_folder
from pymultiling.results.tables import activation_table
from pymultiling.runtime.processes import is_first, join


def run(arguments: Namespace) -> None:
    """Counts every language's activations; writes the counts, their proportions by layer, and a plot."""
    record = record_of("count", arguments)
    corpora = dict(arguments.corpus)
    join()
    if is_first():
        check_free(arguments.out)
        with record.stage("hash"):
            record.note(corpora=hashes_of_files(corpora))
    model, tokenizer = load(arguments, record)
    with record.stage("count"):
        found = activations(model, tokenizer, corpora, positions=arguments.positions, **pass_of(arguments))
    if not is_first():
        return
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_counts(found, folder, arguments.model, arguments.positions)
        record.note(texts={name: asdict(report) for name, report in found.corpora.items()})
        record.write(folder)
    print(activation_table(found), end="\n\n")
    for language, report in found.corpora.items():
        print(f"{language}: {report}")
    print(f"\nresults in {arguments.out}, {record.elapsed:.1f} s")


def write_counts(found: Activations, folder: Path, model: str, positions: str) -> None:
    """Writes counts/ with a file a language, activations.png, and tables with a column a language: proportion.csv, a row a
    layer, and most_active.csv, in how many positions the most active 1% of the neurons are, from the first down."""
    import pandas

    (folder / "counts").mkdir()
    for language, one in found.items():
        one.save(folder / "counts" / f"{language}.safetensors", model=model, language=language, positions=positions)
    proportions = pandas.DataFrame({language: one.proportion.numpy() for language, one in found.items()})
    proportions.to_csv(folder / "proportion.csv", index_label="layer")
    curves = pandas.DataFrame({language: one.most_active().counts.numpy() for language, one in found.items()})
    curves.to_csv(folder / "most_active.csv", index_label="rank")
    plots.save(plots.activations(found), folder / "activations.png")
