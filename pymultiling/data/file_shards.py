"""Files of texts as shards of a corpus. They are local or on any file system of fsspec, compressed or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from pymultiling.data.corpus_types import TextFile, as_text_file
from pymultiling.data.parquet_rows import open_parquet, rows_of
from pymultiling.data.rows import Record, extract_fields, parse_json_lines, readable_records
from pymultiling.data.stored_files import StoredFile, stored_files
from pymultiling.data.text_lines import COMPRESSED, ending, text_lines
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Generator

KINDS = "a .txt, .txt.gz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet file"
ENDINGS = (".txt", ".jsonl", ".parquet")
OTHER_FIELD = "give the one that holds the texts as --field NAME (in Python pymultiling.TextFile)"


class FileShard:
    """One file of a corpus.

    Attributes:
        name: path or URL of the file.
        done: fraction of the file that has been read, 0 to 1, or None if its length is unknown.
        unit: the unit of its size, such as "bytes of .txt.gz".
    """

    def __init__(self, file: StoredFile, encoding: str | None = None, text_field: str = "text"):
        self._file, self.name, self._encoding, self._text_field = file, file.name, encoding, text_field
        self.done: float | None = 0.0
        suffix = PurePosixPath(file.plain_path).suffix
        self.unit = f"bytes of {ending(file.plain_path)}{suffix if suffix in COMPRESSED else ''}"

    def records(self, fields: tuple[str, ...]) -> Generator[Record, None, None]:
        """Yields the strings in these fields of every record. A line of a .txt file is a record with a single field.

        Raises:
            CorpusError: the file does not exist, is damaged, has no such strings, or more than one character in a
                thousand cannot be read.
        """
        readers = {".txt": self._read_text, ".jsonl": self._read_json, ".parquet": self._read_parquet}
        stored_fields = tuple(self._text_field if field == "text" else field for field in fields)
        with self._file.open() as raw:
            yield from readable_records(readers[ending(self._file.plain_path)](raw, stored_fields), self.name)
        self.done = 1.0

    @property
    def size(self) -> int | None:
        """Size of the stored file in bytes, or None if its file system does not tell."""
        return self._file.size

    def fingerprint(self) -> str:
        """Returns a hash of the file's size and of its beginning and end, as `StoredFile.fingerprint` does."""
        return self._file.fingerprint()

    def _read_text(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        if len(fields) > 1:
            raise CorpusError(f"{self.name} has no {' and '.join(fields)}: give a .jsonl or .parquet file")
        for line in self._lines(raw):
            yield (line,)

    def _read_json(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        for value, where in parse_json_lines(self._lines(raw), self.name):
            if isinstance(value, dict) and len(fields) == 1 and fields[0] not in value:
                raise CorpusError(f"{where} has no field {fields[0]!r}, only {', '.join(value)}: {OTHER_FIELD}")
            yield extract_fields(value, fields, where)

    def _lines(self, raw: BinaryIO) -> Iterator[str]:
        size = self.size
        for line in text_lines(raw, self._file.plain_path, self.name, encoding=self._encoding):
            self.done = None if size is None else raw.tell() / max(1, size)
            yield line

    def _read_parquet(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        with open_parquet(raw, self.name) as file:
            names = file.schema_arrow.names
            for field in fields:
                if field not in names:
                    advice = OTHER_FIELD if len(fields) == 1 else "rename the right one"
                    raise CorpusError(f"{self.name} has no column {field!r}, only {', '.join(names)}: {advice}")
            for number, row in enumerate(rows_of(file, list(fields)), 1):
                self.done = number / file.metadata.num_rows
                yield extract_fields(row, fields, f"{self.name}, row {number}")


def file_shards(source: str | Path | TextFile) -> list[FileShard]:
    """Returns the files that a path, a URL or a pattern with * names, sorted by name.

    Raises:
        CorpusError: there are no such files, their server cannot be reached, or they have an ending that is not
            supported.
        BackendUnavailable: a package for the URL is not installed.
    """
    texts = as_text_file(source)
    return [FileShard(file, texts.encoding, texts.field) for file in stored_files(texts.path, ENDINGS, KINDS)]


def names_file(text: str) -> bool:
    """Whether a text is the name of a local file that could be read as a corpus."""
    return len(text) < 256 and ending(text) in ENDINGS and Path(text).is_file()
