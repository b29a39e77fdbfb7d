"""Reads the records of task files, and checks their fields against a declared schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

from pymultiling.data.corpora import replace_lone_surrogates
from pymultiling.data.corpus_types import TextFile, as_text_file
from pymultiling.data.rows import parse_json_lines
from pymultiling.data.stored_files import stored_files
from pymultiling.data.text_lines import text_lines
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
    """Reads .jsonl files, which a path, a URL or a pattern with * names. They may be compressed (.gz, .zst).

    Yields:
        The object of each line that is not blank, with lone surrogates replaced, and its location for messages.

    Raises:
        CorpusError: there is no such file, it cannot be read, or a line is not a JSON object.
        BackendUnavailable: a package for the URL is not installed.
    """
    texts = as_text_file(source)
    for file in stored_files(texts.path):
        # Not strict: the published XQuAD has U+FFFD in a paragraph and two answers.
        with file.open() as raw:
            lines = text_lines(raw, file.plain_path, file.name, encoding=texts.encoding)
            for record, where in parse_json_lines(lines, file.name):
                if not isinstance(record, dict):
                    raise CorpusError(f"{where} must be a JSON object")
                yield {name: _replace_in(value) for name, value in record.items()}, where


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
