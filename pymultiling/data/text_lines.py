"""The lines of a text file, compressed or not. Imports no heavy packages."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pymultiling.errors import CorpusError

COMPRESSED = (".gz", ".zst")


def ending(path: str | Path) -> str:
    """Returns the ending that tells the format, without that of the compression: .txt for fr.txt and for fr.txt.gz."""
    pure = PurePosixPath(path)
    return pure.with_suffix("").suffix if pure.suffix in COMPRESSED else pure.suffix


def text_lines(raw: IO[bytes], path: str | Path, name: str, *, strict: bool = False) -> Iterator[str]:
    """Yields the lines of a UTF-8 text, without their line ends.

    Args:
        raw: the open file, in binary mode.
        path: the file's path, whose ending tells the compression.
        name: the file's name, for error messages.
        strict: True, for texts in which line numbers matter: bytes that are not UTF-8 are an error, and only a line
            feed ends a line. False: such bytes are replaced by U+FFFD, and a carriage return ends a line too.

    Raises:
        CorpusError: the file is binary. This is checked only if not `strict`.
        UnicodeDecodeError: a byte is not UTF-8, and `strict`.
        OSError, EOFError, ValueError, zlib.error: compressed data are damaged.
    """
    suffix = PurePosixPath(path).suffix
    stream: IO[bytes] | gzip.GzipFile | io.BufferedReader = raw
    if suffix == ".gz":
        stream = gzip.GzipFile(fileobj=raw)
    elif suffix == ".zst":
        from pyarrow import CompressedInputStream

        stream = io.BufferedReader(CompressedInputStream(raw, "zstd"))
    if strict:
        for line in io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n"):
            yield line.rstrip("\r\n")
        return
    for line in io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace"):
        if "\0" in line:
            raise CorpusError(f"{name} is a binary file, not text: give a UTF-8 text with one document a line")
        yield line.rstrip("\n")
