"""From lines to JSON rows, to the strings in their fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pymultiling.data.text_lines import text_lines
from pymultiling.errors import CorpusError

Row = tuple[str, ...]


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Inside, whatever a source raises becomes a CorpusError: a protocol that is unknown, no network, no rights, damage."""
    try:
        yield
    except (CorpusError, MemoryError):
        raise
    except Exception as error:  # every file system has errors of its own
        raise CorpusError(f"{name} cannot be read: {error or type(error).__name__}") from error


def read_json_records(path: Path) -> Iterator[tuple[object, str]]:
    """Every line of a .jsonl file, compressed or not, and where it stands, for messages.

    Raises:
        CorpusError: there is no such file, or a line is not JSON.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    with open(path, "rb") as raw:
        yield from rows_of_lines(text_lines(raw, path, str(path)), str(path))


def rows_of_lines(lines: Iterable[str], name: str) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where} is not JSON: {error}") from None
        yield row, where


def strings(row, fields: tuple[str, ...], where: str) -> Row:
    """The strings in these fields of a row, "" for null; CorpusError where it has none."""
    if not isinstance(row, dict) or not all(isinstance(row.get(field, 0), (str, type(None))) for field in fields):
        what = "a string, or an object with a string" if len(fields) == 1 else "an object with strings"
        found = type(row).__name__
        if isinstance(row, dict):
            kinds = [f"{type(row[field]).__name__} in {field!r}" for field in fields if field in row]
            found = ", ".join(kinds or map(repr, row))
        raise CorpusError(f"{where}: looked for {what} {' and '.join(map(repr, fields))}, found {found}")
    return tuple(row[field] or "" for field in fields)
