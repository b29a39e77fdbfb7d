"""Types of corpora, for the annotations of public functions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class TextFile:
    """A file of texts in another encoding than UTF-8, as a corpus of `detect`, `perplexity` and others.

    Args:
        path: the path or URL of a .txt or .jsonl file, which may be compressed (.gz, .zst), or a pattern with *.
        encoding: the encoding's name in Python, such as "gb18030", "cp1252" or "utf-16".

    Raises:
        ValueError: Python knows no such encoding.
    """

    path: str | Path
    encoding: str

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"unknown encoding {self.encoding!r}: give one of Python's, such as gb18030") from None


# The files of a corpus: a path, a URL that fsspec knows or a pattern of either with *, or several paths.
CorpusFiles: TypeAlias = str | Path | TextFile | Sequence[Path]
# The texts of one language: files, or strings, or records with a "text" field, such as a datasets.Dataset or a
# datasets.IterableDataset. None is an empty text.
Corpus: TypeAlias = CorpusFiles | Iterable[str | None] | Iterable[Mapping[str, object]]
# Prompts and their responses: files, or pairs, or records with the fields "prompt" and "response".
PairCorpus: TypeAlias = CorpusFiles | Iterable[tuple[str, str]] | Iterable[list[str]] | Iterable[Mapping[str, object]]
