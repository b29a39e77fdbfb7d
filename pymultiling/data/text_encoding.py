"""Characters that could not be read: how many a text may have, and the encoding that it probably has.

Imports no heavy packages.
"""

from __future__ import annotations

import codecs
import re
from typing import NoReturn

from pymultiling.errors import CorpusError

CHARACTERS_FOR_ONE = 1000  # more than one replaced character in this many is an error
CHECKED = 1 << 16  # a text is judged each time that this many characters were read, and at its end
SAMPLE_BYTES = 1 << 15  # from which the encoding is guessed
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Surrogates, which stand for bytes that are not UTF-8 or are halves of a pair, and what others have replaced.
UNREADABLE = re.compile("[\ud800-\udfff\ufffd]")
MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class UnreadableCharacters:
    """Counts characters that were replaced, and refuses a text that has too many.

    Args:
        name: the name of the text, for messages.
        encoding: the encoding that it was read in.

    Attributes:
        sample: the bytes of the beginning of the text, from which the encoding is guessed.
    """

    def __init__(self, name: str, encoding: str = "utf-8"):
        self._name, self._encoding = name, encoding
        self._characters = self._replaced = self._unchecked = 0
        self._first = ""
        self.sample = bytearray()

    def count(self, text: str, where: str) -> bool:
        """Counts the characters of a part of the text, whose bytes that are not UTF-8 are surrogates.

        Args:
            text: the part.
            where: its place, such as "line 3".

        Returns:
            Whether some of them are to be replaced.

        Raises:
            CorpusError: there are too many so far.
        """
        if len(self.sample) < SAMPLE_BYTES:
            self.sample += text.encode("utf-8", "surrogateescape" if _has_bytes(text) else "replace") + b"\n"
        places = [] if text.isascii() else [match.start() for match in UNREADABLE.finditer(text)]
        if places and not self._first:
            self._first = f"{where}, character {places[0] + 1}"
        self._characters += len(text)
        self._unchecked += len(text)
        self._replaced += len(places)
        if self._unchecked >= CHECKED:
            self._unchecked = 0
            self.check()
        return bool(places)

    def check(self) -> None:
        """Raises CorpusError if more than one character was replaced, and more than one in CHARACTERS_FOR_ONE."""
        if self._replaced > 1 and self._replaced * CHARACTERS_FOR_ONE > self._characters:
            self.refuse()

    def refuse(self) -> NoReturn:
        """Raises CorpusError with the first place of a replaced character and the encoding that the text may have."""
        guess = guess_encoding(bytes(self.sample))
        if guess is None or codecs.lookup(guess).name == codecs.lookup(self._encoding).name:
            advice = "the texts were damaged when they were made: make them again"
        else:
            advice = (
                f"the encoding is probably {guess}: save it in UTF-8, or give --encoding {guess} (in Python "
                "pymultiling.TextFile)"
            )
        raise CorpusError(
            f"{self._name}: {self._replaced:,} of the first {self._characters:,} characters are not {self._encoding}, "
            f"the first at {self._first}; {advice}"
        )


def guess_encoding(sample: bytes) -> str | None:
    """Returns the name of the encoding that bytes probably have, or None if they have none that is known."""
    mark = guess_by_mark(sample)
    if mark is not None:
        return mark
    from charset_normalizer import from_bytes

    best = from_bytes(sample[:SAMPLE_BYTES].rpartition(b"\n")[0] or sample).best()
    return None if best is None else best.encoding.replace("_", "-")


def guess_by_mark(sample: bytes) -> str | None:
    """Returns UTF-16 or UTF-32 for bytes that begin with the byte order mark of one of them, and None for others."""
    return next((name for mark, name in MARKS.items() if sample.startswith(mark)), None)


def replace_bytes(text: str) -> str:
    """Replaces bytes that are not UTF-8, which are surrogates in the text, by U+FFFD, as decoding them does."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _has_bytes(text: str) -> bool:
    """Whether a text has surrogates that stand for bytes, and no others."""
    return not text.isascii() and all("\udc80" <= c <= "\udcff" for c in re.findall("[\ud800-\udfff]", text))
