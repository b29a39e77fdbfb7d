"""Types of corpora, for the annotations of public functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

# The files of a corpus: a path, a URL that fsspec knows or a pattern of either with *, or several paths.
CorpusFiles: TypeAlias = str | Path | Sequence[Path]
# The texts of one language: files, or strings, or records with a "text" field, such as a datasets.Dataset or a
# datasets.IterableDataset. None is an empty text.
Corpus: TypeAlias = CorpusFiles | Iterable[str | None] | Iterable[Mapping[str, object]]
# Prompts and their responses: files, or pairs, or records with the fields "prompt" and "response".
PairCorpus: TypeAlias = CorpusFiles | Iterable[tuple[str, str]] | Iterable[list[str]] | Iterable[Mapping[str, object]]
