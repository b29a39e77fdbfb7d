"""Rows of parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from pymultiling.data.stored_files import StoredFile
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

# Rows read at a time. pyarrow's default of 65,536 took 1.2 GB and six times as long for records of 4 kB (two cores,
# 2026-11-22).
ROWS = 1024


@contextmanager
def open_parquet(raw: BinaryIO, name: str) -> Iterator[ParquetFile]:
    """Opens a parquet file.

    Args:
        raw: the open file, in binary mode.
        name: its name, for messages.

    Raises:
        CorpusError: it is no parquet file, or what the block reads of it is damaged.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(raw) as file:
            yield file
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{name} is not a parquet file, or is damaged ({error}); write it again") from None


def rows_of(file: ParquetFile, columns: list[str] | None = None) -> Iterator[dict[str, object]]:
    """Yields the rows of an open file. columns: the names of those to read; None: all."""
    for batch in file.iter_batches(ROWS, columns=columns):
        yield from batch.to_pylist()


def read_parquet_rows(stored: StoredFile) -> Iterator[tuple[dict[str, object], str]]:
    """Yields the rows of a file, and their locations for messages.

    Raises:
        CorpusError: the file does not exist, or is damaged.
    """
    with stored.open() as raw, open_parquet(raw, stored.name) as file:
        for number, row in enumerate(rows_of(file), 1):
            yield row, f"{stored.name}, row {number}"
