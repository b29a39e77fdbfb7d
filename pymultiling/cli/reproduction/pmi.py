"""`reproduce pmi`: the tables of arXiv 2403.09073 before fine-tuning."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pymultiling.cli.reproduction.shared import (
    open_measured,
    pivot_intervals,
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
from pymultiling.results.tables import TOP_SHARE, pmi_table

if TYPE_CHECKING:
    from pymultiling.methods.reproduction.pmi import PmiTables

POSITIONS = "last"  # tokens at which activations are counted


def run(arguments: Namespace, started: float) -> None:
    """Measures, prints and writes the tables."""
    from pymultiling.methods.reproduction.data_folder import DataFolder
    from pymultiling.methods.reproduction.plan import Setup
    from pymultiling.methods.reproduction.pmi import reproduce_pmi
    from pymultiling.methods.reproduction.pmi_inputs import read_inputs
    from pymultiling.results import plots

    refuse_options(arguments, ("seeds",))
    record = start_record(arguments)
    inputs = read_inputs(DataFolder(arguments.data), arguments.languages, arguments.metric)
    record.note(corpora=hash_corpora({"parallel": str(inputs.file)}))
    limit = time_limit(arguments, started)
    model, tokenizer = load(arguments, record)
    settings = {"languages": [inputs.source, *inputs.others, inputs.target], "metric": inputs.metric}
    measured = open_measured(arguments, record, model, settings)
    with record.stage("measure"):
        setup = Setup(model, tokenizer, measured, arguments.batch_tokens, not arguments.quiet)
        tables = reproduce_pmi(setup, inputs, limit)
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            for name in ("table", "by_layer", "inhibition", "activity", "samples"):
                getattr(tables, name).to_csv(folder / f"{name}.csv", index=False)
            if len(tables.answers):
                tables.answers.to_csv(folder / "answers.csv", index=False)
            (folder / "counts").mkdir()
            for name, counts in tables.counts.items():
                counts.save(folder / "counts" / f"{name}.safetensors", prompt=name, positions=POSITIONS)
            save_plot(plots.pmi(tables.table, tables.counts, POSITIONS), folder, "pmi")
            measured.copy_to(folder / MEASURED_FOLDER, tables.rounds)
        record.note(positions=POSITIONS)
        write_notes(tables.notes, record, folder)
        record.write(folder)
    _print(tables)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _print(tables: PmiTables) -> None:
    """Prints the tables with the intervals and sample sizes."""
    print("direct: the source alone; pivot: another language alone; PMI-k: the source and k other languages\n")
    print(pmi_table(tables.table))
    print(f"\nactive: fraction of the FFN neurons that are active at the prompts' last token; {TOP_SHARE}")
    print("\nThe values with the ends of their 95% bootstrap intervals over the items")
    print("still active: of the neurons that are active with direct input; not in direct: of the prompt's own ones\n")
    for table, form in ((tables.answers, ".3f"), (tables.activity, ".1%")):
        if len(table):
            print(pivot_intervals(table, "prompt", "measure", "value", form), end="\n\n")
    print_samples(tables.samples)
    print_notes(tables.notes)
