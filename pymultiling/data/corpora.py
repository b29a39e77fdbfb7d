"""The texts of a corpus, and a report of what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

from pymultiling.data.corpus_types import Corpus
from pymultiling.data.empty_files import warn_of_empty_files
from pymultiling.data.rows import Record
from pymultiling.data.shards import Shard, shards_of
from pymultiling.data.text_encoding import REPLACEMENT

TEXT = ("text",)
PAIR = ("prompt", "response")
NOTHING_READ = "nothing was read: its files are empty, or its iterator was used before"


@dataclass
class CorpusReport:
    """How many texts of a corpus were read, left out or changed. `a + b` adds up two reports.

    Attributes:
        texts: texts that were read.
        empty: texts that were left out because they are blank.
        short: texts that were left out because they have fewer than two tokens, and pairs without a token.
        replaced: texts in which bytes that are not UTF-8, or lone surrogates, were replaced by U+FFFD.
        cut: documents that were cut to the maximum length.
        left_over: tokens at the end of packed texts that did not fill a document.
    """

    texts: int = 0
    empty: int = 0
    short: int = 0
    replaced: int = 0
    cut: int = 0
    left_over: int = 0

    def __add__(self, other: CorpusReport) -> CorpusReport:
        return CorpusReport(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in asdict(self).items() if count)


def read_texts(source: Corpus, report: CorpusReport) -> Iterator[str]:
    """Yields the texts of a corpus that are not blank.

    Args:
        source: a path, a URL or a pattern of either with *, or a TextFile of one; or an iterable of strings or of
            records (dicts) with a "text" field, such as a datasets.Dataset.
        report: the report, which is updated.

    Raises:
        CorpusError: the source cannot be read as text.

    Warns:
        UserWarning: some of several files have no texts.
    """
    return select_texts(_records(shards_of(source)), report)


def _records(shards: Sequence[Shard]) -> Iterator[Record]:
    """Yields the records of all shards, and warns of the empty ones at the end."""
    empty = []
    for shard in shards:
        is_empty = True
        for record in shard.records(TEXT):
            is_empty = False
            yield record
        if is_empty:
            empty.append(shard.name)
    warn_of_empty_files(empty, len(shards))


def select_texts(records: Iterable[Record], report: CorpusReport) -> Iterator[str]:
    """Yields the texts that are not blank, and updates the report."""
    for (text,) in records:
        report.texts += 1
        if not text.strip():
            report.empty += 1
            continue
        text = clean(text)
        report.replaced += REPLACEMENT in text
        yield text


def select_sentences(records: Iterable[Record], report: CorpusReport) -> Iterator[tuple[int, str]]:
    """Yields the index of the record and the text of each sentence that is not blank, and updates the report."""
    for index, (text,) in enumerate(records):
        report.texts += 1
        if not text.strip():
            report.empty += 1
            continue
        text = clean(text)
        report.replaced += REPLACEMENT in text
        yield index, text


def select_pairs(records: Iterable[Record], report: CorpusReport) -> Iterator[tuple[str, str]]:
    """Yields the prompts and responses of pairs whose response is not blank, and updates the report, pair by pair."""
    for prompt, response in records:
        report.texts += 1
        if not response.strip():
            report.empty += 1
            continue
        prompt, response = replace_lone_surrogates(prompt), replace_lone_surrogates(response)
        report.replaced += REPLACEMENT in prompt + response
        yield prompt, response


def clean(text: str) -> str:
    """Returns a text as a line of a file has it: without a byte order mark, line ends and lone surrogates.

    Lines that Python has read from a file end with their line ends, and the first may begin with the mark.
    """
    return replace_lone_surrogates(text.removeprefix("\ufeff").rstrip("\r\n"))


def replace_lone_surrogates(text: str) -> str:
    """Replaces lone surrogates by U+FFFD. JSON can contain them as escapes, and tokenizers refuse them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
