"""Parallel texts: tables with a column for each language, and text files whose lines correspond."""

from __future__ import annotations

import zlib
from pathlib import Path

from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError, error_text

STRUCTURED = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".xml")


def read_columns(path: str | Path) -> dict[str, list[str]]:
    """Reads the columns of a .tsv, .tsv.gz or .tsv.zst file.

    Tabs separate the columns, and quotes have no meaning. The first line has the languages' codes.

    Returns:
        {language: texts}, without column "id".

    Raises:
        CorpusError: the file cannot be read as such a table, or a language has two columns.
    """
    path = Path(path)
    if ending(path) != ".tsv":
        raise CorpusError(f"{path}: expected a .tsv or .tsv.gz file with a column for each language")
    rows = [line.split("\t") for line in _read_text(path)]
    while rows and rows[-1] == [""]:  # blank lines at the end
        rows.pop()
    if not any(map(any, rows)):
        raise CorpusError(f"{path} is empty: expected a first line with the languages' codes, and texts")
    header, *rows = rows
    if len(set(header)) < len(header):
        raise CorpusError(f"{path}: a language is twice in the first line, {' '.join(header)}; keep one column of each")
    if not all(header) or header == ["id"]:
        raise CorpusError(f"{path}: expected the languages' codes in the first line, got {header}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise CorpusError(
                f"{path}, line {number}: expected {len(header)} columns as in the first line, got {len(row)}; "
                "put a tab between columns, and none into a text"
            )
    return {language: [row[column] for row in rows] for column, language in enumerate(header) if language != "id"}


def read_lines(path: str | Path) -> list[str]:
    """Reads all lines of a text file, which may be compressed (.gz, .zst).

    Empty lines are kept, since lines of the same number correspond.

    Raises:
        CorpusError: the file's name has the ending of a table, or it cannot be read as text in UTF-8.
    """
    path = Path(path)
    if ending(path) in STRUCTURED:
        raise CorpusError(f"{path}: expected a text with one sentence a line, such as a .txt file")
    return _read_text(path)


def _read_text(path: Path) -> list[str]:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; check the path")
    try:
        with path.open("rb") as raw:
            return list(text_lines(raw, path, str(path), strict=True))
    except CorpusError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read as text in UTF-8 ({error_text(error)}): save it in UTF-8") from None
