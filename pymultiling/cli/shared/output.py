"""Standard output of a command: printable text, and a reader such as `head` that may close it early."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO, cast

from pymultiling.errors import printable


class OutputClosed(BaseException):
    """The reader of standard output has closed it. No `except Exception` on the way to the program takes it."""


@contextmanager
def printable_output() -> Iterator[None]:
    """Escapes what a terminal would obey in all texts that the block prints, since they may come from files.

    Raises:
        OutputClosed: the reader has closed the output. The rest of it is discarded.
    """
    stream = sys.stdout
    output = _Output(stream)
    try:
        with redirect_stdout(cast(TextIO, output)):
            try:
                yield
            finally:
                output.flush()
    except OutputClosed:
        # Python flushes the stream again at its end.
        with suppress(OSError, io.UnsupportedOperation):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


class _Output:
    """A text stream that escapes and passes on."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(printable(text))
        except BrokenPipeError:
            raise OutputClosed from None

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise OutputClosed from None

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
