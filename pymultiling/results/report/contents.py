"""The contents of a report: sections with figures, those of several runs of a kind side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pymultiling.results.report.figures import Cell, Column, Figure
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section, sections_of


@dataclass(frozen=True)
class Shown:
    """A figure of one or more runs.

    Attributes:
        figure: the figure of the first of these runs; title, source, columns and chart are those of all.
        rows: {name of a run: rows}.
        alternatives: {name of a run: alternative text}.
    """

    figure: Figure
    rows: dict[str, Sequence[Sequence[Cell]]]
    alternatives: dict[str, str]


def contents(results: Sequence[Results]) -> list[tuple[Section, list[Shown]]]:
    """Returns the sections of these results with their figures. A section without figures is left out.

    Raises:
        CheckpointError: a file of the results is missing or damaged.
    """
    found = []
    for section, runs in sections_of(results):
        shown: dict[tuple[str, str, tuple[Column, ...]], Shown] = {}
        for run in runs:
            for figure in section.figures(run):
                key = figure.name, figure.source, tuple(figure.columns)
                shown.setdefault(key, Shown(figure, {}, {}))
                shown[key].rows[run.name] = figure.rows
                shown[key].alternatives[run.name] = figure.alternative
        changes = [
            Shown(figure, {run.name: figure.rows}, {run.name: figure.alternative})
            for number, run in enumerate(runs)
            for figure in _changes(section, runs[:number], run)
        ]
        if shown or changes:
            found.append((section, [*changes, *shown.values()]))
    return found


def _changes(section: Section, earlier: Sequence[Results], run: Results) -> list[Figure]:
    """Returns the figures of what changed since the first of the earlier runs that the run can be compared with."""
    if section.changes is None:
        return []
    return next((figures for first in earlier if (figures := section.changes(first, run))), [])


def differences(shown: Shown) -> int | None:
    """Returns in how many rows the values of two runs differ; None if the figure is not of two runs."""
    if len(shown.rows) != 2:
        return None
    keys = [number for number, column in enumerate(shown.figure.columns) if column.form is None]
    first, second = ({tuple(row[number] for number in keys): list(row) for row in rows} for rows in shown.rows.values())
    return sum(first.get(key) != second.get(key) for key in first.keys() | second.keys())
