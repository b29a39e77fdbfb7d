"""The texts of a corpus, and an account of what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeAlias

from pymultiling.data.rows import Row
from pymultiling.data.shards import shards_of

# The files of a corpus: a path, a URL that fsspec knows or a pattern of either with *, or several paths.
CorpusFiles: TypeAlias = str | Path | Sequence[Path]
# The texts of one language: files, or strings, or records with a "text" field, such as a datasets.Dataset or a
# datasets.IterableDataset. None is an empty text.
Corpus: TypeAlias = CorpusFiles | Iterable[str | None] | Iterable[Mapping[str, object]]
# Prompts and their responses: files, or pairs, or records with the fields "prompt" and "response".
PairCorpus: TypeAlias = CorpusFiles | Iterable[tuple[str, str]] | Iterable[list[str]] | Iterable[Mapping[str, object]]

TEXT = ("text",)
PAIR = ("prompt", "response")
NOTHING_READ = "nothing was read, its files are empty or its iterator was used before"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class CorpusReport:
    """What became of a corpus's texts: nothing is left out silently. `a + b` is the account of both.

    Attributes:
        texts: read.
        empty: left out because there was nothing in them.
        short: documents left out because they had a single token, and pairs without any.
        replaced: kept, with bytes that are not UTF-8, and halves of surrogate pairs, replaced by U+FFFD.
        cut: documents shortened to the longest length allowed.
        left_over: tokens at the end of packed texts that did not fill a document.
    """

    texts: int = 0
    empty: int = 0
    short: int = 0
    replaced: int = 0
    cut: int = 0
    left_over: int = 0

    def __add__(self, other: CorpusReport) -> CorpusReport:
        return CorpusReport(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in asdict(self).items() if count)


def read_texts(source: Corpus, report: CorpusReport) -> Iterator[str]:
    """The texts of a corpus that have something in them.

    Args:
        source: a path, a URL or a pattern of either with *; or an iterable of strings or of rows (dicts) with a "text" field,
            such as a datasets.Dataset.
        report: is added to.

    Raises:
        CorpusError: the source cannot be read as text.
    """
    return texts_of((row for shard in shards_of(source) for row in shard.rows(TEXT)), report)


def texts_of(rows: Iterable[Row], report: CorpusReport) -> Iterator[str]:
    """The texts that have something in them; `report` is added to."""
    for (text,) in rows:
        report.texts += 1
        if not text.strip():
            report.empty += 1
            continue
        text = replace_lone_surrogates(text)
        report.replaced += REPLACEMENT in text
        yield text


def sentences_of(rows: Iterable[Row], report: CorpusReport) -> Iterator[tuple[int, str]]:
    """The sentences that are there, each with its place among the rows; `report` is added to."""
    for place, (text,) in enumerate(rows):
        report.texts += 1
        if not text.strip():
            report.empty += 1
            continue
        text = replace_lone_surrogates(text)
        report.replaced += REPLACEMENT in text
        yield place, text


def pairs_of(rows: Iterable[Row], report: CorpusReport) -> Iterator[tuple[str, str]]:
    """The prompts and responses, without those that have no response; in `report`, which is added to, a text is a pair."""
    for pair in rows:
        report.texts += 1
        if not pair[1].strip():
            report.empty += 1
            continue
        prompt, response = map(replace_lone_surrogates, pair)
        report.replaced += REPLACEMENT in prompt + response
        yield prompt, response


def replace_lone_surrogates(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON can escape, and which tokenizers refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
