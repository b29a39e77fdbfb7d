"""`reproduce ternary`: the tables of arXiv 2505.21505 before alignment."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pymultiling.cli.reproduction.shared import (
    SEEDS,
    open_measured,
    pivot_intervals,
    print_notes,
    print_samples,
    time_limit,
    write_notes,
)
from pymultiling.cli.shared.activity_files import print_ternary, write_counts, write_ternary
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.result_files import print_ablation, write_ablation
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.results.folders import MEASURED_FOLDER, result_folder

if TYPE_CHECKING:
    from pymultiling.methods.reproduction.ternary import TernaryTables


def run(arguments: Namespace, started: float) -> None:
    """Measures, prints and writes the tables."""
    from pymultiling.methods.reproduction.data_folder import DataFolder
    from pymultiling.methods.reproduction.plan import Setup
    from pymultiling.methods.reproduction.rounds import PACK
    from pymultiling.methods.reproduction.ternary import reproduce_ternary
    from pymultiling.methods.reproduction.ternary_inputs import read_inputs

    record = start_record(arguments)
    inputs = read_inputs(DataFolder(arguments.data), arguments.languages, arguments.metric)
    record.note(corpora=hash_corpora({name: str(file) for name, file in inputs.files.items()}))
    limit = time_limit(arguments, started)
    model, tokenizer = load(arguments, record)
    measured = open_measured(arguments, record, model, {"languages": list(inputs.texts), "pack": PACK})
    with record.stage("measure"):
        setup = Setup(model, tokenizer, measured, arguments.batch_tokens, not arguments.quiet)
        tables = reproduce_ternary(setup, inputs, limit, seeds=arguments.seeds or SEEDS)
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_counts(tables.counts, folder, {"model": arguments.model, "positions": "all"})
            parts = write_ternary(tables.kinds, folder)
            write_ablation(tables.perplexities, folder)
            tables.intervals.to_csv(folder / "intervals.csv", index=False)
            tables.samples.to_csv(folder / "samples.csv", index=False)
            if len(tables.tasks):
                tables.tasks.to_csv(folder / "kinds.csv", index=False)
            measured.copy_to(folder / MEASURED_FOLDER, tables.rounds)
        record.note(seed=0, lam=tables.kinds.lam, threshold=tables.kinds.threshold)
        write_notes(tables.notes, record, folder)
        record.write(folder)
    _print(tables, parts)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _print(tables: TernaryTables, parts: dict[str, range] | None) -> None:
    """Prints the tables with the intervals and sample sizes."""
    print_ternary(tables.kinds, parts, is_auto=tables.kinds.lam > 0)
    print("\nall specific, all related, all general: the neurons of a kind, in all languages\n")
    print_ablation(tables.perplexities)
    print("\nThe changes of log-perplexity with the ends of their 95% bootstrap intervals over the texts\n")
    print(pivot_intervals(tables.intervals, "row", "language", "value", "+.3f"))
    for (task, metric), rows in tables.tasks.groupby(["task", "metric"], sort=False):
        print(f"\n{task} ({metric}) with the neurons of a kind off, and with as many random ones off\n")
        print(pivot_intervals(rows, "neurons", "language", "score", ".3f"))
    print_samples(tables.samples)
    print_notes(tables.notes)
