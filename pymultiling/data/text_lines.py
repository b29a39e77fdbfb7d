"""The lines of a text file, compressed or not. Importing is light."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pymultiling.errors import CorpusError

COMPRESSED = (".gz", ".zst")


def ending(path: str | Path) -> str:
    """The ending that says what is in a file, compressed or not: .txt of fr.txt and of fr.txt.gz."""
    path = PurePosixPath(path)
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def text_lines(raw, path: str | Path, name: str, *, strict: bool = False) -> Iterator[str]:
    """The lines of a text in UTF-8, without their ends.

    Args:
        raw: the open file, in bytes.
        path: says by its ending how the file is compressed.
        name: of the file, for messages.
        strict: for texts whose lines are counted: bytes that are not UTF-8 are an error, and a carriage return alone ends no
            line. Otherwise such bytes are replaced, and it does.

    Raises:
        CorpusError: it is a binary file; not looked for where `strict`.
        UnicodeDecodeError: a byte is not UTF-8, where `strict`.
        OSError, EOFError, ValueError, zlib.error: compressed data are damaged.
    """
    suffix = PurePosixPath(path).suffix
    if suffix == ".gz":
        raw = gzip.GzipFile(fileobj=raw)
    elif suffix == ".zst":
        from pyarrow import CompressedInputStream

        raw = io.BufferedReader(CompressedInputStream(raw, "zstd"))
    if strict:
        for line in io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n"):
            yield line.rstrip("\r\n")
        return
    for line in io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace"):
        if "\0" in line:
            raise CorpusError(f"{name} is a binary file, not text: give a UTF-8 text with one document a line")
        yield line.rstrip("\n")
