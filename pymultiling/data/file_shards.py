"""Files of texts, on this machine or wherever fsspec reaches, compressed or not: as rows of strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec

from pymultiling.data.rows import Row, errors_of, rows_of_lines, strings
from pymultiling.data.text_lines import ending, text_lines
from pymultiling.errors import CorpusError

KINDS = "a .txt, .txt.gz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.zst or .parquet file"
ENDINGS = (".txt", ".jsonl", ".parquet")
# At a time. Evidence: 65,536, the default, took 1.2 GB and six times as long of rows of 4 kB; two cores, 2026-11-22.
PARQUET_ROWS = 1024
ENDS = 1 << 16  # bytes at either end of a file that its fingerprint covers


class FileShard:
    """One file of a corpus.

    Attributes:
        name: its path, or its URL.
        done: how much of it has been read, between 0 and 1; None where its length is unknown.
    """

    def __init__(self, filesystem, path: str, name: str):
        self._filesystem, self._path, self.name = filesystem, path, name
        self.done: float | None = 0.0

    def rows(self, fields: tuple[str, ...]) -> Iterator[Row]:
        """The strings in these fields of every row.

        Raises:
            CorpusError: the file is not there, is damaged, or has no such strings.
        """
        readers = {".txt": self._texts, ".jsonl": self._json, ".parquet": self._parquet}
        with self._open() as raw:
            yield from readers[ending(self._path)](raw, fields)
        self.done = 1.0

    @property
    def size(self) -> int | None:
        """Bytes, as it is stored; None where its file system does not say."""
        with errors_of(self.name):
            return self._filesystem.info(self._path)["size"]

    def fingerprint(self) -> str:
        """A hash of the file's size and of its first and last 64 KiB.

        Of a server that does not say how large it is, or begins at the beginning only, the first ones alone.

        Raises:
            CorpusError: it is not there, or cannot be read.
        """
        with self._open() as raw:
            size = self._filesystem.info(self._path)["size"]
            digest = hashlib.blake2b(str(size).encode(), digest_size=16)
            digest.update(_read(raw, ENDS))
            if size is not None:
                with suppress(ValueError):  # a server that cannot begin anywhere
                    raw.seek(max(0, size - ENDS))
                    digest.update(_read(raw, ENDS))
        return digest.hexdigest()

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with errors_of(self.name):
            try:
                with self._filesystem.open(self._path, "rb") as raw:
                    yield raw
            except FileNotFoundError:
                raise CorpusError(f"{self.name}: no such file (any more)") from None

    def _texts(self, raw, fields: tuple[str, ...]) -> Iterator[Row]:
        if len(fields) > 1:
            raise CorpusError(f"{self.name} has no {' and '.join(fields)}: give a .jsonl or .parquet file")
        for line in self._lines(raw):
            yield (line,)

    def _json(self, raw, fields: tuple[str, ...]) -> Iterator[Row]:
        for row, where in rows_of_lines(self._lines(raw), self.name):
            yield strings(row, fields, where)

    def _lines(self, raw) -> Iterator[str]:
        size = self._filesystem.info(self._path)["size"]
        for line in text_lines(raw, self._path, self.name):
            self.done = None if size is None else raw.tell() / max(1, size)
            yield line

    def _parquet(self, raw, fields: tuple[str, ...]) -> Iterator[Row]:
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(raw) as file:
                names = file.schema_arrow.names
                for field in fields:
                    if field not in names:
                        raise CorpusError(f"{self.name} has no column {field!r}, only {', '.join(names)}")
                batches = file.iter_batches(PARQUET_ROWS, columns=list(fields))
                for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                    self.done = number / file.metadata.num_rows
                    yield strings(row, fields, f"{self.name}, row {number}")
        except pyarrow.ArrowException as error:
            raise CorpusError(f"{self.name} is no parquet file, or is damaged: {error}") from None


def _read(raw, size: int) -> bytes:
    """So many bytes, or all that there are; a stream gives what has come."""
    found = bytearray()
    while len(found) < size and (more := raw.read(size - len(found))):
        found += more
    return bytes(found)


def file_shards(source: str | Path) -> list[FileShard]:
    """The files that a path, a URL or a pattern with * names, sorted by name.

    Raises:
        CorpusError: there are none, or they are of no kind that can be read.
    """
    source = str(source)
    with errors_of(source):
        filesystem, path = fsspec.core.url_to_fs(source)
        pattern = "*" in path and not filesystem.exists(path)
        paths = sorted(filesystem.glob(path.replace("[", "[[]"))) if pattern else [path]
        remote = "://" in source
        found = [FileShard(filesystem, one, filesystem.unstrip_protocol(one) if remote else one) for one in paths]
        if not remote and not pattern:
            found[0].name = source  # as the caller called it
        _check(source, found, filesystem)
        return found


def names_file(text: str) -> bool:
    """Whether a text is the name of a file on this machine that could be read as a corpus."""
    return len(text) < 256 and ending(text) in ENDINGS and Path(text).is_file()


def _check(source: str, shards: list[FileShard], filesystem) -> None:
    if not shards:
        raise CorpusError(f"{source}: no such files")
    for shard in shards:
        if ending(shard._path) not in ENDINGS:
            raise CorpusError(f"{shard.name}: looked for {KINDS}")
        if not filesystem.isfile(shard._path):
            raise CorpusError(f"{shard.name}: no such file")
