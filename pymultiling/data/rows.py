"""Records of corpora: JSON lines, and the strings in the fields of a record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from pymultiling.data.text_encoding import UnreadableCharacters
from pymultiling.errors import CorpusError

# The strings of a record that a pass needs: (text,), or (prompt, response).
Record: TypeAlias = tuple[str, ...]


def parse_json_lines(lines: Iterable[str], name: str) -> Iterator[tuple[object, str]]:
    """Yields the value of each line that is not blank, and its location for error messages: `name` and line number."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # too many brackets
            raise CorpusError(f"{where} is not JSON ({error}): give one JSON value a line") from None
        yield value, where


def readable_records(records: Iterable[Record], name: str) -> Iterator[Record]:
    """Yields the records, and refuses them if too many of their characters are U+FFFD or lone surrogates.

    Raises:
        CorpusError: more than one such character, and more than one in a thousand.
    """
    unreadable = UnreadableCharacters(name)
    for number, record in enumerate(records, 1):
        for text in record:
            unreadable.count(text, f"record {number}")
        yield record
    unreadable.check()


def extract_fields(value: object, fields: tuple[str, ...], where: str) -> Record:
    """Returns the strings in the fields of an object, with "" for null.

    Args:
        value: the object, as JSON or a data set gives it.
        fields: the names of the fields.
        where: the location of the record, for messages.

    Raises:
        CorpusError: the value is not an object (dict), lacks a field, or a field holds something else.
    """
    if isinstance(value, dict) and all(isinstance(value.get(field, 0), str | None) for field in fields):
        return tuple(value[field] or "" for field in fields)
    expected = "a string, or an object with a string" if len(fields) == 1 else "an object with strings"
    actual = type(value).__name__
    if isinstance(value, dict):
        types = [f"{type(value[field]).__name__} in {field!r}" for field in fields if field in value]
        actual = ", ".join(types or map(repr, value))
    raise CorpusError(f"{where}: expected {expected} {' and '.join(map(repr, fields))}, got {actual}")
