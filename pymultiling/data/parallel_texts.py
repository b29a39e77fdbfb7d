"""The same sentences in several languages: tables with a column a language, and texts whose lines belong together."""

from __future__ import annotations

import zlib
from pathlib import Path

from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError

STRUCTURED = (".csv", ".json", ".jsonl", ".parquet", ".tsv", ".xml")


def read_columns(path: str | Path) -> dict[str, list[str]]:
    """The columns of a .tsv, .tsv.gz or .tsv.zst file, which quotes nothing; its first line names them, "id" is left out.

    Raises:
        CorpusError: the file cannot be read as that, or a name is there twice.
    """
    path = Path(path)
    if ending(path) != ".tsv":
        raise CorpusError(f"{path}: looked for a .tsv or .tsv.gz file with a column a language")
    rows = [line.split("\t") for line in _lines(path)]
    while rows and rows[-1] == [""]:  # a blank end
        rows.pop()
    if not any(map(any, rows)):
        raise CorpusError(f"{path} is empty: looked for a first line with the languages' codes, and for texts")
    header, *rows = rows
    if len(set(header)) < len(header):
        raise CorpusError(f"{path}: a language is there twice in the first line, {' '.join(header)}")
    if not all(header) or header == ["id"]:
        raise CorpusError(f"{path}: looked for the languages' codes in the first line, got {header}")
    for place, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise CorpusError(
                f"{path}, line {place}: looked for {len(header)} columns as in the first line, got {len(row)}"
            )
    return {language: [row[place] for row in rows] for place, language in enumerate(header) if language != "id"}


def read_lines(path: str | Path) -> list[str]:
    """All lines of a text, also of a .gz or .zst file, empty ones too: a line's number says what belongs together.

    Raises:
        CorpusError: the file is a table or the like by its name, or cannot be read as text in UTF-8.
    """
    path = Path(path)
    if ending(path) in STRUCTURED:
        raise CorpusError(f"{path}: looked for a text with a sentence a line, such as a .txt file")
    return _lines(path)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        with open(path, "rb") as raw:
            return list(text_lines(raw, path, str(path), strict=True))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read as text in UTF-8: {error}") from None
