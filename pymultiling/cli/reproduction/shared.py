"""What the papers of `reproduce` share: the folder of measured values, notes, samples, and the end of a run."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pymultiling.results.folders import MEASURED_FOLDER, check_output_folder
from pymultiling.results.run import Run

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

    from pymultiling.methods.reproduction.measured import Measured
    from pymultiling.methods.reproduction.plan import Notes, TimeLimit


SEEDS = 3  # random sets for each set in the tables of tasks


def refuse_options(arguments: Namespace, names: Sequence[str]) -> None:
    """Ends the command if an option was given that this paper does not have."""
    for name in names:
        if getattr(arguments, name) is not None:
            arguments.parser.error(f"argument --{name}: not allowed with {arguments.paper}")


def time_limit(arguments: Namespace, started: float) -> TimeLimit:
    """Returns the limit that --minutes gives, counted from the start of the command."""
    from pymultiling.methods.reproduction.plan import TimeLimit

    return TimeLimit(math.inf if arguments.minutes is None else started + 60 * arguments.minutes)


def open_measured(
    arguments: Namespace, record: Run, model: PreTrainedModel, settings: Mapping[str, object]
) -> Measured:
    """Opens the values that earlier runs have measured in --out.

    An error that ends the command names their folder as the place from which the same command continues.

    Raises:
        CheckpointError: they belong to another model, other texts or other settings.
    """
    from pymultiling.methods.reproduction.measured import Measured
    from pymultiling.passes.identity import model_hash

    out = check_output_folder(arguments.out)
    corpora = cast("dict[str, dict[str, object]]", record.record["corpora"])  # as hash_corpora returns them
    texts = {name: {key: value for key, value in entry.items() if key != "file"} for name, entry in corpora.items()}
    with record.stage("hash of the model"):
        identity = {"paper": arguments.paper, "model": model_hash(model), "texts": texts, **settings}
    arguments.checkpoint = out / MEASURED_FOLDER
    return Measured(arguments.checkpoint, identity)


def write_notes(notes: Notes, record: Run, folder: Path) -> None:
    """Writes published.csv, and notes what differs from the paper in the run's record."""
    import pandas

    record.note(departures=notes.departures, left_out=notes.left_out)
    columns = ["statement", "paper", "ours"]
    pandas.DataFrame(notes.published, columns=columns).to_csv(folder / "published.csv", index=False)


def print_notes(notes: Notes) -> None:
    """Prints what differs from the paper, a line each."""
    print("\nOther than in the paper:")
    for sentence in notes.departures:
        print(f"- {sentence}")
    if notes.left_out:
        print("\nNot measured:")
        for sentence in notes.left_out:
            print(f"- {sentence}")
    if notes.published:
        print("\nThe paper's numbers that could be verified, and ours:")
        for statement, paper, ours in notes.published:
            print(f"- {statement}: {paper}; here {ours}")


def print_samples(samples: pandas.DataFrame) -> None:
    """Prints on how many items the values stand."""
    print("\nSample sizes (items of all that there are, in each language):")
    for name, rows in samples.groupby("measured", sort=False):
        sizes = ", ".join(
            f"{language} {items:,} of {total:,}"
            for language, items, total in zip(rows["language"], rows["items"], rows["of"])
        )
        print(f"- {name}: {sizes}")


def pivot_intervals(table: pandas.DataFrame, rows: str, columns: str, value: str, form: str) -> str:
    """Formats values with their intervals, such as "+0.512 [+0.455, +0.561]".

    Args:
        table: a row for each value, with its ends low and high and its number of items.
        rows: the column whose values become rows.
        columns: the column whose values become columns.
        value: the column with the value.
        form: its format.
    """

    def text(row: pandas.Series) -> str:
        if row["items"] < 2:
            return format(row[value], form)
        return f"{row[value]:{form}} [{row['low']:{form}}, {row['high']:{form}}]"

    texts = table.assign(text=table.apply(text, axis=1))
    order = {name: list(dict.fromkeys(texts[name])) for name in (rows, columns)}
    table = texts.pivot(index=rows, columns=columns, values="text").loc[order[rows], order[columns]]
    return table.fillna("").to_string()
