"""Parallel texts: tables with a column for each language, and text files whose lines correspond."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pymultiling.data.corpus_types import TextFile, as_text_file
from pymultiling.data.empty_files import warn_of_empty_files
from pymultiling.data.file_shards import FileShard
from pymultiling.data.stored_files import StoredFile, stored_files
from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError

TABLES = "a .tsv, .tsv.gz or .tsv.zst file with a column for each language"
RECORDS = (".jsonl", ".parquet")
STRUCTURED = (".csv", ".json", ".tsv", ".xml")


def read_columns(source: str | Path | TextFile) -> dict[str, list[str]]:
    """Reads the columns of a .tsv, .tsv.gz or .tsv.zst file, which a path or a URL names.

    Tabs separate the columns, and quotes have no meaning. The first line has the languages' codes.

    Returns:
        {language: texts}, without column "id".

    Raises:
        CorpusError: the file cannot be read as such a table, or a language has two columns.
        BackendUnavailable: a package for the URL is not installed.
    """
    texts = as_text_file(source)
    file, *others = stored_files(texts.path, (".tsv",), TABLES)
    if others:
        raise CorpusError(f"{texts.path}: expected one table, and {len(others) + 1} files have such names; give one")
    rows = [line.split("\t") for line in strict_lines(file, texts.encoding)]
    while rows and rows[-1] == [""]:  # blank lines at the end
        rows.pop()
    if not any(map(any, rows)):
        raise CorpusError(f"{file.name} is empty: expected a first line with the languages' codes, and texts")
    header, *rows = rows
    if len(set(header)) < len(header):
        raise CorpusError(
            f"{file.name}: a language is twice in the first line, {' '.join(header)}; keep one column of each"
        )
    if not all(header) or header == ["id"]:
        raise CorpusError(f"{file.name}: expected the languages' codes in the first line, got {header}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise CorpusError(
                f"{file.name}, line {number}: expected {len(header)} columns as in the first line, got {len(row)}; "
                "put a tab between columns, and none into a text"
            )
    return {language: [row[column] for row in rows] for column, language in enumerate(header) if language != "id"}


def read_lines(source: str | Path | TextFile) -> list[str]:
    """Reads all lines of a text file, which may be compressed (.gz, .zst), or all texts of a .jsonl or .parquet file.

    A path, a URL or a pattern with * names the file. The files of a pattern follow one another, sorted by name. Empty
    texts are kept, since texts of the same number correspond.

    Raises:
        CorpusError: the file's name has the ending of a table, or it cannot be read as text.
        BackendUnavailable: a package for the URL is not installed.

    Warns:
        UserWarning: some of several files have no texts.
    """
    texts = as_text_file(source)
    lines: list[str] = []
    empty: list[str] = []
    files = stored_files(texts.path)
    for file in files:
        lines_before = len(lines)
        file_ending = ending(file.plain_path)
        if file_ending in STRUCTURED:
            raise CorpusError(
                f"{file.name}: expected a text with one sentence a line, such as a .txt file, or a .jsonl or .parquet "
                "file"
            )
        if file_ending in RECORDS:
            lines += [text for (text,) in FileShard(file, texts.encoding, texts.field).records(("text",))]
        else:
            lines += strict_lines(file, texts.encoding)
        if len(lines) == lines_before:
            empty.append(file.name)
    warn_of_empty_files(empty, len(files))
    return lines


def strict_lines(file: StoredFile, encoding: str | None) -> Iterator[str]:
    """Yields the lines of a text in which line numbers matter, as `text_lines` does with `strict`.

    Raises:
        CorpusError: the file cannot be read as text in this encoding (None: UTF-8).
    """
    with file.open() as raw:
        yield from text_lines(raw, file.plain_path, file.name, strict=True, encoding=encoding)
