"""Reads the records of task files, and checks their fields against a declared schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.data.corpus_types import TextFile, as_text_file
from pymultiling.data.parquet_rows import read_parquet_rows
from pymultiling.data.rows import parse_json_lines
from pymultiling.data.stored_files import stored_files
from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError
from pymultiling.runtime.schemas import Schema, SchemaError, check_record

JsonObject: TypeAlias = dict[str, object]
Source: TypeAlias = str | Path | TextFile | Mapping[str, str | Path | TextFile]
S = TypeVar("S", bound=Schema)


def read_records(source: Source) -> Iterator[tuple[str, JsonObject, str]]:
    """Yields the language of every record, the record, and its file and line for messages.

    Args:
        source: a file whose records have a field "lang", which XNLI calls "language", or {language: file}.
    """
    if isinstance(source, Mapping):
        for language, path in source.items():
            for record, where in read_task_records(path):
                yield language, record, where
        return
    for record, where in read_task_records(source):
        record_language = record.get("lang", record.get("language"))
        if not isinstance(record_language, str):
            raise CorpusError(f"{where} needs a string 'lang'")
        yield record_language, record, where


def read_task_records(source: str | Path | TextFile) -> Iterator[tuple[JsonObject, str]]:
    """Reads files of records, which a path, a URL or a pattern with * names.

    A .tsv file has the names of its columns in the first line; tabs separate columns, and quotes have no meaning. A
    .parquet file has a record in each row. Any other file has a JSON object in each line. All but .parquet may be
    compressed (.gz, .zst).

    Yields:
        Each record, with lone surrogates replaced, and its location for messages. Values of a .tsv file are strings.

    Raises:
        CorpusError: there is no such file, it cannot be read, or a line is not a JSON object or has not as many columns
            as the first one.
        BackendUnavailable: a package for the URL is not installed.
    """
    texts = as_text_file(source)
    for file in stored_files(texts.path):
        file_ending = ending(file.plain_path)
        if file_ending == ".parquet":
            yield from read_parquet_rows(file)
            continue
        # Not strict: the published XQuAD has U+FFFD in a paragraph and two answers.
        with file.open() as raw:
            lines = text_lines(raw, file.plain_path, file.name, encoding=texts.encoding)
            if file_ending == ".tsv":
                yield from _parse_table(lines, file.name)
                continue
            for record, where in parse_json_lines(lines, file.name):
                if not isinstance(record, dict):
                    raise CorpusError(f"{where} must be a JSON object")
                yield {name: _replace_in(value) for name, value in record.items()}, where


def _parse_table(lines: Iterator[str], name: str) -> Iterator[tuple[JsonObject, str]]:
    """Yields the records of a table whose first line has the names of the columns, and their locations."""
    columns = next(lines, "").split("\t")
    if len(set(columns)) < len(columns) or not all(columns):
        raise CorpusError(f"{name}: the first line must name each column once, got {', '.join(columns)}")
    for number, line in enumerate(lines, 2):
        if not line:
            continue
        values = line.split("\t")
        if len(values) != len(columns):
            raise CorpusError(
                f"{name}, line {number}: expected {len(columns)} columns as in the first line, got {len(values)}"
            )
        yield dict(zip(columns, map(replace_lone_surrogates, values))), f"{name}, line {number}"


def check_fields(schema: type[S], record: object, where: str, task: str) -> S:
    """Returns the fields of a record.

    Raises:
        CorpusError: the record does not agree with the schema.
    """
    try:
        return check_record(schema, record)
    except SchemaError as error:
        raise CorpusError(f"{where} needs the fields of {task}: {error}") from None


def _replace_in(value: object) -> object:
    if isinstance(value, str):
        return replace_lone_surrogates(value)
    if isinstance(value, list):
        return [_replace_in(part) for part in value]
    if isinstance(value, dict):
        return {name: _replace_in(part) for name, part in value.items()}
    return value
