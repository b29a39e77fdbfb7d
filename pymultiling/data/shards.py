"""A corpus as a list of shards: files, the shards of a streamed data set, or one iterable."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pymultiling.data.corpus_types import TextFile
from pymultiling.data.file_shards import FileShard, file_shards, names_file
from pymultiling.data.rows import Record, extract_fields, readable_records, wrap_read_errors
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from pymultiling.data.corpus_types import Corpus, PairCorpus

# Classes of `datasets`: a stream of files, and what `select_columns`, `filter`, `map` and `rename_column` make of one.
FILE_STREAMS = ("ExamplesIterable", "ArrowExamplesIterable")
RECORDWISE_STREAMS = ("SelectColumnsIterable", "FilteredExamplesIterable", "MappedExamplesIterable")


class IterableShard:
    """An iterable of strings or records, such as a list, a generator or a datasets.IterableDataset.

    Attributes:
        name: a name of the iterable, for error messages.
        part: its length, or which part of a streamed data set it is, or "" if neither is known.
        done: fraction that has been read, 0 to 1, or None if its length is unknown.
    """

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
            (datasets.IterableDataset) has a shard for each of its files, or a single one after an operation that does
            not work record by record, such as `take` or `interleave_datasets`.

    Raises:
        CorpusError: there is nothing to read, or a list of strings names files.
    """
    if isinstance(source, TextFile):
        return [*file_shards(source.path, source.encoding)]
    if isinstance(source, str | Path):
        return [*file_shards(source)]
    if isinstance(source, list | tuple) and source:
        paths = [path for path in source if isinstance(path, Path)]
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
    count = _count_files(source)
    if count == 1:
        return [IterableShard(source, name)]
    from datasets.distributed import split_dataset_by_node

    parts = (split_dataset_by_node(source, rank=number, world_size=count) for number in range(count))
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


def sizes(corpora: Sequence[Sequence[Shard]]) -> list[float]:
    """Returns the sizes of the corpora in bytes or records, or 1 for each if they are not all known in one unit."""
    equal = [1.0] * len(corpora)
    if len({type(shard) for shards in corpora for shard in shards}) > 1:
        return equal
    totals = []
    for shards in corpora:
        known = [size for size in (shard.size for shard in shards) if size is not None]
        if len(known) < len(shards):
            return equal
        totals.append(max(1.0, float(sum(known))))
    return totals


def _count_files(source: Iterable[object]) -> int:
    """Returns how many files a streamed data set reads one after the other, record by record; 1 for all other sources.

    The results of `take`, `interleave_datasets` and similar operations depend on all files together. After
    `split_dataset_by_node` or `load_state_dict` it is already determined which part of the data set is read.
    """
    if getattr(source, "_distributed", None) or getattr(source, "_starting_state_dict", None):
        return 1
    stream: Any = getattr(source, "_ex_iterable", None)
    while (
        type(stream).__name__ in RECORDWISE_STREAMS
        and not getattr(stream, "batched", False)
        and not getattr(stream, "with_indices", False)
    ):
        stream = stream.ex_iterable
    return getattr(source, "num_shards", 1) if type(stream).__name__ in FILE_STREAMS else 1


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
