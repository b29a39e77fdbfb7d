"""Reads the corpora, selects the lines in the public domain, and makes training sequences of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from pymultiling.data.text_lines import text_lines
from pymultiling.demo_model import LANGUAGES


@dataclass(frozen=True)
class Source:
    """The licence, the origin and the kind of a source of text."""

    licence: str
    origin: str
    kind: str


# These sources are dedicated to the public domain (CC0) or out of copyright. The corpora also hold text with
# attribution and share-alike licences, which is not used.
FREE_SOURCES = {
    "commonvoice": Source("CC0 1.0", "mozilla/common-voice @ 168898f413d7, server/data", "read-aloud prompts"),
    "tico19": Source(
        "CC0 1.0", "Helsinki-NLP/OPUS-MT-testsets @ ac0f19c0be3c, datasets/tico19", "translations on health"
    ),
    "quijote": Source("public domain", "GITenberg/Don-Quijote_2000 @ 7879f2c1653e", "17th-century novel"),
    "bible": Source(
        "public domain",
        "scrollmapper/bible_databases @ a228a19a2909, sources/es/SpaRV (Reina-Valera)",
        "verses, about four a line",
    ),
    "ruslit": Source("public domain", "d0rj/RusLit @ 450968042872, prose", "prose of the 19th and early 20th century"),
}


def input_files(data: Path) -> list[Path]:
    """Returns the paths of the files that training reads from a folder of corpora."""
    names = ["line_sources.json.gz"]
    for language in LANGUAGES:
        names += [f"{language}.txt.gz", f"{language}.heldout.txt.gz"]
    return [data / name for name in names]


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Corpora:
    """The lines of a corpora folder that are free (CC0 or in the public domain), with their sources."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with gzip.open(data / "line_sources.json.gz", "rt", encoding="utf-8") as file:
            sources = json.load(file)
        self._legend: dict[str, str] = sources["legend"]
        self._codes: dict[str, dict[str, str]] = sources["lines"]

    def lines(self, language: str, split: str) -> list[tuple[str, str]]:
        """Returns the (source, line) pairs of the split "train" or "heldout", in the order of the file."""
        suffix = ".heldout.txt.gz" if split == "heldout" else ".txt.gz"
        name = f"{language}{suffix}"
        with (self.data / name).open("rb") as raw:
            texts = list(text_lines(raw, name, name, strict=True))
        codes = self._codes[language][split]
        if len(codes) != len(texts):
            raise ValueError(
                f"{language}/{split}: {len(texts)} lines but {len(codes)} source marks: make the corpora anew"
            )
        pairs = ((self._legend[code], text) for code, text in zip(codes, texts, strict=True))
        return [(source, text) for source, text in pairs if source in FREE_SOURCES]

    def texts(self, language: str, split: str) -> list[str]:
        """Returns the lines of a split without their sources."""
        return [text for _, text in self.lines(language, split)]


def sample_bytes(texts: list[str], budget: int, seed: int) -> list[str]:
    """Draws lines without replacement up to `budget` UTF-8 bytes, including line ends."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    chosen, used = [], 0
    for index in order:
        size = len(texts[index].encode("utf-8")) + 1
        if used + size > budget:
            break
        chosen.append(index)
        used += size
    return [texts[index] for index in sorted(chosen)]


def write_lines(path: Path, texts: list[str]) -> None:
    """Writes a gzip text file whose bytes depend on the text only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(text + "\n" for text in texts).encode("utf-8")
    path.write_bytes(gzip.compress(raw, compresslevel=9, mtime=0))


class Stream:
    """Endless token sequences `<s> line </s> line </s> ...` of one language.

    After the last line, all lines follow again in a new random order. A line that does not fit into a sequence is cut,
    and the next sequence begins with the whole line. So a sequence begins where a text begins, as it does when the
    model is used. A line longer than a sequence continues in the next one.
    """

    def __init__(self, lines: list[list[int]], *, bos: int, eos: int, seed: int) -> None:
        self._lines = lines
        self._bos, self._eos = bos, eos
        self._order = self._epochs(seed)
        self._line: list[int] = []

    def _epochs(self, seed: int) -> Iterator[int]:
        generator = np.random.default_rng(seed)
        while True:
            yield from generator.permutation(len(self._lines)).tolist()

    def take(self, length: int) -> list[int]:
        """Returns the next sequence of `length` tokens."""
        sequence = [self._bos]
        while len(sequence) < length:
            if not self._line:
                self._line = [*self._lines[next(self._order)], self._eos]
            space = length - len(sequence)
            sequence += self._line[:space]
            # Either the line fits, or it has just filled a whole sequence and continues in the next one.
            if len(self._line) <= space or space == length - 1:
                self._line = self._line[space:]
        return sequence


class Batches:
    """Reproducible batches with the same number of tokens; each sequence is of one language.

    A language is drawn with a probability proportional to (tokens ** alpha). With alpha below 1, small languages are
    more frequent in the batches than in the text. One of `long_every` batches has fewer and longer sequences. Short
    sequences train faster, and the long ones train all positions of the model.

    Attributes:
        sizes: {language: number of tokens}.
        shares: {language: probability}.
    """

    def __init__(
        self,
        tokens: dict[str, list[list[int]]],
        *,
        batch_tokens: int,
        length: int,
        long_length: int,
        long_every: int,
        alpha: float,
        bos: int,
        eos: int,
        seed: int,
    ) -> None:
        self._batch_tokens = batch_tokens
        self._length, self._long_length, self._long_every = length, long_length, long_every
        sizes = np.array([sum(len(line) + 1 for line in lines) for lines in tokens.values()])
        self.sizes = dict(zip(tokens, sizes.tolist(), strict=True))
        weights = sizes**alpha
        self._probabilities = weights / weights.sum()
        self.shares = dict(zip(tokens, self._probabilities.tolist(), strict=True))
        self._generator = np.random.default_rng(seed)
        self._streams = [
            Stream(lines, bos=bos, eos=eos, seed=seed + 1 + number) for number, lines in enumerate(tokens.values())
        ]

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in count(1):
            length = self._length if number % self._long_every else self._long_length
            rows = self._batch_tokens // length
            chosen = self._generator.choice(len(self._streams), size=rows, p=self._probabilities)
            yield np.array([self._streams[index].take(length) for index in chosen])
