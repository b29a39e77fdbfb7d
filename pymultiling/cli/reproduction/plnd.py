"""`reproduce plnd`: the tables of arXiv 2402.18815."""

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
from pymultiling.cli.shared.loading import load
from pymultiling.cli.shared.plot_files import save_plot
from pymultiling.cli.shared.result_files import print_ablation, write_ablation, write_detection
from pymultiling.cli.shared.run_record import hash_corpora, start_record
from pymultiling.results.folders import MEASURED_FOLDER, result_folder
from pymultiling.results.tables import counts_by_site, mwork_table

if TYPE_CHECKING:
    from pathlib import Path

    from pymultiling.methods.reproduction.plnd import PlndTables


def run(arguments: Namespace, started: float) -> None:
    """Measures, prints and writes the tables."""
    from pymultiling.methods.reproduction.data_folder import DataFolder
    from pymultiling.methods.reproduction.detection_rounds import RULE
    from pymultiling.methods.reproduction.plan import Setup
    from pymultiling.methods.reproduction.plnd import reproduce_plnd
    from pymultiling.methods.reproduction.plnd_inputs import read_inputs
    from pymultiling.methods.reproduction.rounds import PACK

    record = start_record(arguments)
    inputs = read_inputs(DataFolder(arguments.data), arguments.languages, arguments.metric)
    record.note(corpora=hash_corpora({name: str(file) for name, file in inputs.files.items()}), rule=RULE.rule())
    limit = time_limit(arguments, started)
    model, tokenizer = load(arguments, record)
    languages = list(inputs.texts)
    measured = open_measured(arguments, record, model, {"languages": languages, "rule": RULE.rule(), "pack": PACK})
    with record.stage("measure"):
        setup = Setup(model, tokenizer, measured, arguments.batch_tokens, not arguments.quiet)
        tables = reproduce_plnd(setup, inputs, limit, seeds=arguments.seeds or SEEDS)
    with result_folder(arguments.out) as folder:
        with record.stage("write"):
            write_detection(tables.detection, folder, arguments.model)
            write_ablation(tables.perplexities, folder)
            _write_tables(tables, folder)
            measured.copy_to(folder / MEASURED_FOLDER, tables.rounds)
        spans = {"understanding": _span(tables.search.understanding), "generation": _span(tables.search.generation)}
        record.note(seed=0, **spans)
        write_notes(tables.notes, record, folder)
        record.write(folder)
    _print(tables, spans)
    print(f"\nresults are in {arguments.out}; the run took {record.elapsed:.1f} s")


def _write_tables(tables: PlndTables, folder: Path) -> None:
    """Writes the tables of tasks, the intervals and the sample sizes; no table of tasks if there was time for none."""
    from pymultiling.results import plots

    tables.intervals.to_csv(folder / "intervals.csv", index=False)
    tables.samples.to_csv(folder / "samples.csv", index=False)
    tables.search.sweep.to_csv(folder / "search.csv", index=False)
    if len(tables.mwork):
        tables.table1.to_csv(folder / "table1.csv", index=False)
        tables.mwork.to_csv(folder / "mwork.csv", index=False)
        save_plot(plots.mwork(tables.mwork), folder, "mwork")


def _span(layers: range) -> str:
    return f"{layers.start} to {layers.stop - 1}" if len(layers) else "none"


def _print(tables: PlndTables, spans: dict[str, str]) -> None:
    """Prints the tables as the paper has them, with the intervals and sample sizes."""
    print(counts_by_site(tables.detection.report()), end="\n\n")
    print_ablation(tables.perplexities)
    print("\nThe changes of log-perplexity with the ends of their 95% bootstrap intervals over the texts\n")
    print(pivot_intervals(tables.intervals, "language", "row", "value", "+.3f"))
    for (task, metric), rows in tables.table1.groupby(["task", "metric"], sort=False):
        print(f"\nTable 1 on {task} ({metric}): {', '.join(f'{name}, {what}' for name, what in SET_NAMES.items())}\n")
        print(pivot_intervals(rows, "neurons", "language", "score", ".3f"))
    print(f"\nUnderstanding layers: {spans['understanding']}; generation layers: {spans['generation']}")
    if len(tables.mwork):
        print("Tables 2 to 5. ✗: neurons in this part are off. Eng: English with the same sets off\n")
        print(mwork_table(tables.mwork))
    print_samples(tables.samples)
    print_notes(tables.notes)


SET_NAMES = {"none": "the model as it is", "random": "as many random neurons off", "own": "the language's own off"}
