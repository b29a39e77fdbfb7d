"""A corpus as a list of shards: files, the shards of a streamed data set, or one iterable."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pymultiling.data.corpus_types import TextFile
from pymultiling.data.file_shards import FileShard, file_shards, names_file
from pymultiling.data.read_errors import wrap_read_errors
from pymultiling.data.rows import Record, extract_fields, readable_records
from pymultiling.data.streamed_sets import split_stream
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from pymultiling.data.corpus_types import Corpus, PairCorpus


class IterableShard:
    """An iterable of strings or records, such as a list, a generator or a datasets.IterableDataset.

    Attributes:
        name: a name of the iterable, for error messages.
        part: its length, or which part of a streamed data set it is, or "" if neither is known.
        done: fraction that has been read, 0 to 1, or None if its length is unknown.
        unit: the unit of its size.
    """

    unit = "records"

    def __init__(self, source: Iterable[object], name: str):
        self._source, self.name = source, name
        self._length = len(source) if isinstance(source, Sized) else None
        self.part = str(getattr(source, "_distributed", "") if self._length is None else self._length)
        self.done = None if self._length is None else 0.0

    def records(self, fields: tuple[str, ...]) -> Generator[Record, None, None]:
        """Yields the strings in these fields of every record.

        A string is a record with a single field, and so are None and NaN, pandas' null, which are empty texts. A tuple
        or list has the fields in their order.

        Raises:
            CorpusError: the source raises an exception, a record has no such strings, or more than one character in a
                thousand is U+FFFD or a lone surrogate.
        """
        with wrap_read_errors(self.name):
            yield from readable_records(self._records(fields), self.name)

    def _records(self, fields: tuple[str, ...]) -> Iterator[Record]:
        for number, value in enumerate(self._source, 1):
            if self._length:
                self.done = number / self._length
            if len(fields) == 1:
                if value is None or (isinstance(value, float) and value != value):
                    value = ""
                if isinstance(value, str):
                    yield (value,)
                    continue
            elif isinstance(value, tuple | list) and len(value) == len(fields):
                value = dict(zip(fields, value))
            yield extract_fields(value, fields, f"record {number}")

    @property
    def size(self) -> int | None:
        """Number of records, or None if it is unknown."""
        return self._length

    def first_record_hash(self) -> str:
        """Returns a hash of the first record. It starts a new iteration over the source."""
        first = repr(next(iter(self._source), None))
        return hashlib.blake2b(first.encode("utf-8", "replace"), digest_size=8).hexdigest()

    def fingerprint(self) -> str:
        """Returns a hash of all values of a list or of the first record of a stream, or a data set's own fingerprint.

        For other iterables, which may be readable only once, it returns "".
        """
        if isinstance(self._source, list | tuple):
            digest = hashlib.blake2b(digest_size=16)
            for value in self._source:
                digest.update(repr(value).encode("utf-8", "surrogatepass"))
            return digest.hexdigest()
        if hasattr(self._source, "_ex_iterable"):  # a datasets.IterableDataset
            return self.first_record_hash()
        return str(getattr(self._source, "_fingerprint", ""))


Shard: TypeAlias = FileShard | IterableShard


def shards_of(source: Corpus | PairCorpus) -> list[Shard]:
    """Returns the shards of a corpus, at least one.

    Args:
        source: a path, a URL that fsspec knows, a pattern of either with *, or a TextFile; a list of pathlib.Path; or
            an iterable of strings or records, such as a datasets.Dataset. A streamed data set
            (datasets.IterableDataset) has the shards of `split_stream`.

    Raises:
        CorpusError: there is nothing to read, or a list of strings names files.
    """
    if isinstance(source, str | Path | TextFile):
        return [*file_shards(source)]
    if isinstance(source, list | tuple) and source:
        paths = [path for path in source if isinstance(path, Path | TextFile)]
        if len(paths) == len(source):
            return [shard for path in paths for shard in file_shards(path)]
        if isinstance(source[0], str) and names_file(source[0]):
            raise CorpusError(
                f"{source[0]!r} in a list is a text, but names a file: give a list of pathlib.Path, or a pattern"
            )
    if isinstance(source, Mapping):
        raise CorpusError(f"a mapping of {', '.join(map(repr, source))} is not a corpus: pass one of its values")
    if not isinstance(source, Iterable):
        raise CorpusError(f"a corpus is a path or an iterable of texts, not {type(source).__name__}")
    name = type(source).__name__
    if name == "DataFrame":
        raise CorpusError("iterating over a DataFrame gives the names of its columns: pass one of them, frame['text']")
    parts = split_stream(source)
    if len(parts) == 1:
        return [IterableShard(source, name)]
    return [IterableShard(part, f"{name}, shard {number}") for number, part in enumerate(parts, 1)]


def identify_part(shards: Sequence[Shard]) -> str:
    """Returns a text that processes compare to find out whether they were given different parts of one corpus.

    Different texts prove that the parts differ. Equal texts prove nothing, because most of the corpus is not read.
    """
    first = shards[0]
    if isinstance(first, FileShard):  # processes with other files usually begin with another file
        return first.fingerprint()
    if len(shards) > 1:  # the files of a streamed data set, which can be read again
        return first.first_record_hash()
    # A single iterable may be readable only once. `split_dataset_by_node` notes its process in the data set.
    return first.part


def shard_sizes(shards: Sequence[Shard]) -> list[float] | None:
    """Returns the sizes of the shards, in bytes for files and in records for others, or None if one is unknown."""
    known = [float(size) for size in (shard.size for shard in shards) if size is not None]
    return known if len(known) == len(shards) else None


def corpus_size(shards: Sequence[Shard]) -> tuple[str, float] | None:
    """Returns the unit and the size of a corpus, or None if it is unknown. Each format of files has its own unit."""
    sizes = shard_sizes(shards)
    return None if sizes is None else (", ".join(sorted({shard.unit for shard in shards})), sum(sizes))


def describe_shards(shards: Sequence[Shard]) -> str:
    """Describes a corpus: the name of its file, or the number of its parts and a hash of the files' names.

    Folders are left out, since they may change.
    """
    names = [shard.name.rpartition("/")[2] for shard in shards if isinstance(shard, FileShard)]
    if len(names) == 1:
        return names[0]
    noun = "part" if len(shards) == 1 else "parts"
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=4).hexdigest()
    return f"{len(shards):,} {noun}" + (f", {digest}" if names else "")


def check_first_record(shards: Sequence[Shard], fields: tuple[str, ...]) -> None:
    """Reads the first record of a file corpus, which can be read again.

    Raises:
        CorpusError: it cannot be read, or has no such fields.
    """
    first = shards[0]
    if isinstance(first, FileShard):
        with closing(first.records(fields)) as records:
            next(records, None)
