"""`reproduce ilo`: the tables of arXiv 2503.11280 before training."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pymultiling.cli.reproduction.shared import (
    open_measured,
    print_notes,
    print_samples,
    refuse_options,
    time_limit,
    write_notes,
)
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.results.folders import MEASURED_FOLDER, result_folder

if TYPE_CHECKING:
    from pymultiling.methods.reproduction.ilo import IloTables


def run(arguments: Namespace, started: float) -> None:
    """Measures, prints and writes the tables."""
    from pymultiling.methods.reproduction.data_folder import DataFolder
    from pymultiling.methods.reproduction.ilo import read_inputs, reproduce_ilo
    from pymultiling.methods.reproduction.plan import Setup
    from pymultiling.results import plots

    refuse_options(arguments, ("metric", "seeds"))
    record = start_record(arguments)
    inputs = read_inputs(DataFolder(arguments.data), arguments.languages)
    record.note(corpora=hash_corpora({"parallel": str(inputs.file)}))
    limit = time_limit(arguments, started)
    model, tokenizer = load(arguments, record)
    measured = open_measured(arguments, record, model, {"languages": list(inputs.sentences)})
    with record.stage("measure"):
        setup = Setup(model, tokenizer, measured, arguments.batch_tokens, not arguments.quiet)
        tables = reproduce_ilo(setup, inputs, limit)
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            for name in ("ilo", "means", "retrieval", "cka", "samples"):
                getattr(tables, name).to_csv(folder / f"{name}.csv", index=False)
            save_plot(plots.ilo(tables.ilo), folder, "ilo")
            measured.copy_to(folder / MEASURED_FOLDER)
        write_notes(tables.notes, record, folder)
        record.write(folder)
    _print(tables)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _print(tables: IloTables) -> None:
    print("ILO by language and layer (layer 0: the embeddings)")
    by_language = tables.ilo.pivot(index="language", columns="layer", values="ilo")
    print(by_language.loc[list(dict.fromkeys(tables.ilo["language"]))].round(3).to_string())
    print("\nMeans over languages, and over pairs of languages; low and high: 95% bootstrap interval of the mean ILO")
    means = tables.means.set_index("layer").drop(columns="items")
    means["retrieval"] = tables.retrieval.groupby("layer")["accuracy"].mean()
    means["cka"] = tables.cka.groupby("layer")["cka"].mean()
    print(means.round(3).to_string())
    print_samples(tables.samples)
    print_notes(tables.notes)
