"""Files of texts as shards of a corpus. They are local or on any file system of fsspec, compressed or not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec

from pymultiling.data.rows import Record, extract_fields, parse_json_lines, readable_records, wrap_read_errors
from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Generator

KINDS = "a .txt, .txt.gz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet file"
ENDINGS = (".txt", ".jsonl", ".parquet")
# Records read at a time. pyarrow's default of 65,536 took 1.2 GB and six times as long for records of 4 kB (two cores,
# 2026-11-22).
PARQUET_ROWS = 1024
ENDS = 1 << 16  # bytes at either end of a file that its fingerprint covers


class FileShard:
    """One file of a corpus.

    Attributes:
        name: path or URL of the file.
        done: fraction of the file that has been read, 0 to 1, or None if its length is unknown.
    """

    def __init__(self, filesystem: fsspec.AbstractFileSystem, path: str, name: str, encoding: str | None = None):
        self._filesystem, self._path, self.name, self._encoding = filesystem, path, name, encoding
        self.done: float | None = 0.0

    def records(self, fields: tuple[str, ...]) -> Generator[Record, None, None]:
        """Yields the strings in these fields of every record. A line of a .txt file is a record with a single field.

        Raises:
            CorpusError: the file does not exist, is damaged, has no such strings, or more than one character in a
                thousand cannot be read.
        """
        readers = {".txt": self._read_text, ".jsonl": self._read_json, ".parquet": self._read_parquet}
        with self._open() as raw:
            yield from readable_records(readers[ending(self._path)](raw, fields), self.name)
        self.done = 1.0

    @property
    def size(self) -> int | None:
        """Size of the stored file in bytes, or None if its file system does not tell."""
        with wrap_read_errors(self.name):
            return self._stored_size()

    def fingerprint(self) -> str:
        """Returns a hash of the file's size and of its first and last 64 KiB.

        If a server does not tell the size, or cannot read from a position, the last 64 KiB are left out.

        Raises:
            CorpusError: the file does not exist or cannot be read.
        """
        with self._open() as raw:
            size = self._stored_size()
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            digest.update(_read_bytes(raw, ENDS))
            if size is not None:
                with suppress(ValueError):  # raised by seek if the server does not support ranges
                    raw.seek(max(0, size - ENDS))
                    digest.update(_read_bytes(raw, ENDS))
        return digest.hexdigest()

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with wrap_read_errors(self.name):
            try:
                with self._filesystem.open(self._path, "rb") as raw:
                    yield raw
            except FileNotFoundError:
                raise CorpusError(f"{self.name}: no such file (any more); put it back, or give another one") from None

    def _stored_size(self) -> int | None:
        info: dict[str, Any] = self._filesystem.info(self._path)
        size: int | None = info["size"]
        return size

    def _read_text(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        if len(fields) > 1:
            raise CorpusError(f"{self.name} has no {' and '.join(fields)}: give a .jsonl or .parquet file")
        for line in self._lines(raw):
            yield (line,)

    def _read_json(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        for value, where in parse_json_lines(self._lines(raw), self.name):
            yield extract_fields(value, fields, where)

    def _lines(self, raw: BinaryIO) -> Iterator[str]:
        size = self._stored_size()
        for line in text_lines(raw, self._path, self.name, encoding=self._encoding):
            self.done = None if size is None else raw.tell() / max(1, size)
            yield line

    def _read_parquet(self, raw: BinaryIO, fields: tuple[str, ...]) -> Iterator[Record]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(raw) as file:
                names = file.schema_arrow.names
                for field in fields:
                    if field not in names:
                        raise CorpusError(
                            f"{self.name} has no column {field!r}, only {', '.join(names)}: rename the right one"
                        )
                batches = file.iter_batches(PARQUET_ROWS, columns=list(fields))
                rows = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(rows, 1):
                    self.done = number / file.metadata.num_rows
                    yield extract_fields(row, fields, f"{self.name}, row {number}")
        except pyarrow.ArrowException as error:
            raise CorpusError(f"{self.name} is not a parquet file, or is damaged ({error}); write it again") from None


def _read_bytes(raw: BinaryIO, size: int) -> bytes:
    """Reads `size` bytes, or all that are left. A single read of a stream may return fewer, so it is repeated."""
    content = bytearray()
    while len(content) < size and (part := raw.read(size - len(content))):
        content += part
    return bytes(content)


def file_shards(source: str | Path, encoding: str | None = None) -> list[FileShard]:
    """Returns the files that a path, a URL or a pattern with * names, sorted by name. encoding: as in `text_lines`.

    Raises:
        CorpusError: there are no such files, or they have an ending that is not supported.
    """
    source = str(source)
    with wrap_read_errors(source):
        filesystem, path = fsspec.core.url_to_fs(source)
        is_pattern = "*" in path and not filesystem.exists(path)
        paths = sorted(filesystem.glob(path.replace("[", "[[]"))) if is_pattern else [path]
        is_remote = "://" in source
        shards = [
            FileShard(filesystem, path, filesystem.unstrip_protocol(path) if is_remote else path, encoding)
            for path in paths
        ]
        if not is_remote and not is_pattern:
            shards[0].name = source  # the path as the caller wrote it, not the absolute one
        _check_files(source, shards, filesystem)
        return shards


def names_file(text: str) -> bool:
    """Whether a text is the name of a local file that could be read as a corpus."""
    return len(text) < 256 and ending(text) in ENDINGS and Path(text).is_file()


def _check_files(source: str, shards: list[FileShard], filesystem: fsspec.AbstractFileSystem) -> None:
    if not shards:
        raise CorpusError(f"{source}: no such files; check the path and the pattern")
    for shard in shards:
        if ending(shard._path) not in ENDINGS:
            raise CorpusError(f"{shard.name}: expected {KINDS}")
        if not filesystem.isfile(shard._path):
            raise CorpusError(f"{shard.name}: no such file; check the path")
