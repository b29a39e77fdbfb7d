"""What a part is: a function that measures something of a model, and returns tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import pandas

from benchmarks.experiments.real_models.inputs import Inputs

Row: TypeAlias = dict[str, object]  # {column: a text, a number, or None where there is no value}
Tables: TypeAlias = dict[str, list[Row]]  # {title: rows}


class Part(NamedTuple):
    """A part of the measurements.

    Attributes:
        title: heading of its section.
        about: what the numbers are, and of what.
        measure: measures the part.
    """

    title: str
    about: str
    measure: Callable[[Inputs], Tables]


def rounded(row: Mapping[str, object], digits: int = 4) -> Row:
    """Returns the row with its fractions to this many significant digits, and None for NaN."""
    cells: Row = {}
    for column, value in row.items():
        if isinstance(value, float):
            cells[column] = float(f"{value:.{digits}g}") if math.isfinite(value) else None
        else:
            cells[column] = value
    return cells


def rows_of(table: pandas.DataFrame, index: str, decimals: int = 3) -> list[Row]:
    """Returns the rows of a table, with its index as the column of this name. NaN is None."""
    return [
        {index: name, **{str(column): _cell(row[column], decimals) for column in table}}
        for name, row in zip(table.index, table.to_dict("records"))
    ]


def _cell(value: object, decimals: int) -> object:
    if not isinstance(value, float):
        return value
    return round(value, decimals) + 0.0 if math.isfinite(value) else None  # + 0.0 turns -0.0 into 0.0


def transposed(rows: Iterable[Row], names: Iterable[str], first: str) -> list[Row]:
    """Returns a row for each column of `rows`, whose cells are those of the rows, under their names."""
    rows, names = list(rows), list(names)
    return [{first: column, **{name: row[column] for name, row in zip(names, rows)}} for column in rows[0]]
