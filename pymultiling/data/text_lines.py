"""The lines of a text file, compressed or not. Imports no heavy packages."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pymultiling.data.text_encoding import UnreadableCharacters, guess_by_mark, replace_bytes
from pymultiling.errors import CorpusError

COMPRESSED = (".gz", ".zst")


def ending(path: str | Path) -> str:
    """Returns the ending that tells the format, without that of the compression: .txt for fr.txt and for fr.txt.gz."""
    pure = PurePosixPath(path)
    return pure.with_suffix("").suffix if pure.suffix in COMPRESSED else pure.suffix


def text_lines(
    raw: IO[bytes], path: str | Path, name: str, *, strict: bool = False, encoding: str | None = None
) -> Iterator[str]:
    """Yields the lines of a text, without their line ends.

    Args:
        raw: the open file, in binary mode.
        path: the file's path, whose ending tells the compression.
        name: the file's name, for error messages.
        strict: True, for texts in which line numbers matter: a character that cannot be read is an error, and only a
            line feed ends a line. False: such characters are replaced by U+FFFD, and a carriage return ends a line too.
        encoding: the encoding; None: UTF-8.

    Raises:
        CorpusError: a character cannot be read, and `strict`; or more than one character was replaced, and more than
            one in a thousand; or the file is binary. The last is checked only if not `strict`.
        OSError, EOFError, ValueError, zlib.error: compressed data are damaged.
    """
    suffix = PurePosixPath(path).suffix
    stream: IO[bytes] | gzip.GzipFile | io.BufferedReader = raw
    if suffix == ".gz":
        stream = gzip.GzipFile(fileobj=raw)
    elif suffix == ".zst":
        from pyarrow import CompressedInputStream

        stream = io.BufferedReader(CompressedInputStream(raw, "zstd"))
    unreadable = UnreadableCharacters(name, encoding or "utf-8")
    # Bytes that are not UTF-8 stay in the lines as surrogates, so that the encoding can be guessed from them.
    text = io.TextIOWrapper(
        stream,
        encoding=encoding or "utf-8-sig",
        errors="replace" if encoding else "surrogateescape",
        newline="\n" if strict else None,
    )
    for number, line in enumerate(text, 1):
        if "\0" in line and not strict:
            mark = (
                None if encoding else guess_by_mark(bytes(unreadable.sample) + line.encode("utf-8", "surrogateescape"))
            )
            if mark:
                raise CorpusError(f"{name} is in {mark}: give --encoding {mark} (in Python pymultiling.TextFile)")
            raise CorpusError(f"{name} is a binary file, not text: give a UTF-8 text with one document a line")
        line = line.rstrip("\r\n" if strict else "\n")
        if unreadable.count(line, f"line {number}"):
            if strict:
                unreadable.refuse()
            line = line if encoding else replace_bytes(line)
        yield line
    unreadable.check()
