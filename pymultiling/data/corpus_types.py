"""Types of corpora, for the annotations of public functions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class TextFile:
    """A file of texts in another encoding than UTF-8, or whose texts are in another field than "text".

    It is a corpus of `detect`, `perplexity` and others, and is taken wherever a path of texts is.

    Args:
        path: the path or URL of a .txt, .jsonl or .parquet file, or a pattern with *. The first two may be compressed
            (.gz, .zst).
        encoding: the encoding's name in Python, such as "gb18030", "cp1252" or "utf-16". None: UTF-8.
        field: the field of .jsonl records, or the column of a .parquet file, that holds the texts.

    Raises:
        ValueError: Python knows no such encoding.
    """

    path: str | Path
    encoding: str | None = None
    field: str = "text"

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ValueError(f"unknown encoding {self.encoding!r}: give one of Python's, such as gb18030") from None


def as_text_file(source: str | Path | TextFile) -> TextFile:
    """Returns a file of texts; for a path or a URL, one in UTF-8 with the texts in field "text"."""
    return source if isinstance(source, TextFile) else TextFile(source)


# The files of a corpus: a path, a URL that fsspec knows or a pattern of either with *, or several paths.
CorpusFiles: TypeAlias = str | Path | TextFile | Sequence[Path] | Sequence[TextFile]
# The texts of one language: files, or strings, or records with a "text" field, such as a datasets.Dataset or a
# datasets.IterableDataset. None is an empty text.
Corpus: TypeAlias = CorpusFiles | Iterable[str | None] | Iterable[Mapping[str, object]]
# Prompts and their responses: files, or pairs, or records with the fields "prompt" and "response".
PairCorpus: TypeAlias = CorpusFiles | Iterable[tuple[str, str]] | Iterable[list[str]] | Iterable[Mapping[str, object]]
