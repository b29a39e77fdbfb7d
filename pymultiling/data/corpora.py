"""Reading texts: from any iterable of strings or rows, or from txt, jsonl (both also .gz) and parquet files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pymultiling.errors import CorpusError

FIELDS = ("text",)
PAIR = ("prompt", "response")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class CorpusReport:
    """What became of a corpus's texts: nothing is left out silently.

    Attributes:
        texts: read.
        empty: left out because there was nothing in them.
        short: documents left out because they had a single token.
        replaced: kept, with bytes that are not UTF-8, and halves of surrogate pairs, replaced by U+FFFD.
        cut: documents shortened to the longest length allowed.
        left_over: tokens at the end of a packed corpus that did not fill a document.
    """

    texts: int = 0
    empty: int = 0
    short: int = 0
    replaced: int = 0
    cut: int = 0
    left_over: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in asdict(self).items() if count)


def read_texts(source, report: CorpusReport) -> Iterator[str]:
    """The texts of a corpus that have something in them.

    Args:
        source: a path, or an iterable of strings or of rows (dicts) with a "text" field, such as a datasets.Dataset.
        report: is added to.

    Raises:
        CorpusError: the source cannot be read as text.
    """
    for (text,) in _rows(source, FIELDS):
        report.texts += 1
        if not text.strip():
            report.empty += 1
            continue
        text = without_half_pairs(text)
        report.replaced += REPLACEMENT in text
        yield text


def read_pairs(source, report: CorpusReport) -> Iterator[tuple[str, str]]:
    """The prompts and responses of a corpus, without those that have no response.

    Args:
        source: an iterable of (prompt, response) or of rows (dicts) with these fields, or a path to such rows.
        report: is added to; a text is a pair.

    Raises:
        CorpusError: the source cannot be read as such.
    """
    for pair in _rows(source, PAIR):
        report.texts += 1
        if not pair[1].strip():
            report.empty += 1
            continue
        prompt, response = map(without_half_pairs, pair)
        report.replaced += REPLACEMENT in prompt + response
        yield prompt, response


def without_half_pairs(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON can escape, and which tokenizers refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _rows(source, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return _from_path(Path(source), fields) if isinstance(source, (str, Path)) else _from_rows(source, fields)


def _from_path(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    readers = {".txt": _text_lines, ".jsonl": _json_lines, ".parquet": _parquet}
    kind = ending(path)
    if kind not in readers:
        raise CorpusError(f"{path}: looked for a .txt, .txt.gz, .jsonl, .jsonl.gz or .parquet file")
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        yield from readers[kind](path, fields)
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path} cannot be read: {error}") from None


def ending(path: Path) -> str:
    """The ending that says what is in a file, compressed or not: .txt of fr.txt and of fr.txt.gz."""
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _text_lines(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if len(fields) > 1:
        raise CorpusError(f"{path} has no {' and '.join(fields)}: give a .jsonl, .jsonl.gz or .parquet file")
    for line in _lines(path):
        yield (line,)


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if "\0" in line:
                raise CorpusError(f"{path} is a binary file, not text: give a UTF-8 text with one document a line")
            yield line.rstrip("\n")


def json_rows(path: Path) -> Iterator[tuple[object, str]]:
    """Every line of a .jsonl or .jsonl.gz file, and where it stands, for messages.

    Raises:
        CorpusError: there is no such file, or a line is not JSON.
    """
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where} is not JSON: {error}") from None
        yield row, where


def _json_lines(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for row, where in json_rows(path):
        yield _strings(row, fields, where)


def _parquet(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for field in fields:
                if field not in names:
                    raise CorpusError(f"{path} has no column {field!r}, only {', '.join(names)}")
            for batch in file.iter_batches(columns=list(fields)):
                for row in batch.to_pylist():
                    yield _strings({field: value or "" for field, value in row.items()}, fields, str(path))
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} is no parquet file: {error}") from None


def _from_rows(source: Iterable, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(source, Mapping):
        raise CorpusError(f"a mapping of {', '.join(map(repr, source))} is no corpus: pass one of its parts")
    for number, row in enumerate(source, 1):
        where = f"row {number}"
        if isinstance(row, (tuple, list)) and len(row) == len(fields) > 1:
            row = dict(zip(fields, row))
        yield (row,) if isinstance(row, str) and len(fields) == 1 else _strings(row, fields, where)


def _strings(row, fields: tuple[str, ...], where: str) -> tuple[str, ...]:
    if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in fields):
        what = "a string, or an object with a string" if len(fields) == 1 else "an object with strings"
        raise CorpusError(f"{where}: looked for {what} {' and '.join(map(repr, fields))}")
    return tuple(row[field] for field in fields)
