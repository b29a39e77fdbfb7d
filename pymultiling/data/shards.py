"""A corpus as shards: files, the shards of a streamed data set, or one iterable; each is rows of strings, read in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pymultiling.data.files import FileShard, Row, file_shards, strings
from pymultiling.errors import CorpusError


class RowsShard:
    """An iterable of strings or rows in memory, or that comes from somewhere, such as a datasets.IterableDataset.

    Attributes:
        name: for messages.
        extent: its length, or which part of a streamed data set it is; "" where neither is known.
        done: how much of it has been read, between 0 and 1; None where its length is unknown.
    """

    def __init__(self, source: Iterable, name: str):
        self._source, self.name = source, name
        self._length = len(source) if hasattr(source, "__len__") else None
        self.extent = str(getattr(source, "_distributed", "") if self._length is None else self._length)
        self.done = None if self._length is None else 0.0

    def rows(self, fields: tuple[str, ...]) -> Iterator[Row]:
        """The strings in these fields of every row.

        Raises:
            CorpusError: a row has no such strings.
        """
        for number, row in enumerate(self._source, 1):
            if self._length:
                self.done = number / self._length
            if isinstance(row, (tuple, list)) and len(row) == len(fields) > 1:
                row = dict(zip(fields, row))
            yield (row,) if isinstance(row, str) and len(fields) == 1 else strings(row, fields, f"row {number}")

    def fingerprint(self) -> str:
        """The data set's own, or a hash of a list of strings; "" for what cannot be looked at twice."""
        if isinstance(self._source, (list, tuple)):
            digest = hashlib.blake2b(digest_size=16)
            for row in self._source:
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
            return digest.hexdigest()
        return getattr(self._source, "_fingerprint", "")


Shard = FileShard | RowsShard


def shards_of(source) -> list[Shard]:
    """The shards of a corpus, at least one.

    Args:
        source: a path, a URL that fsspec knows, or a pattern of either with *; or an iterable of strings or of rows, such as a
            datasets.Dataset. A streamed data set (datasets.IterableDataset) has as many shards as files; one
            that something was done to, such as `take`, `map` or `interleave_datasets`, has one.

    Raises:
        CorpusError: there is nothing to read.
    """
    if isinstance(source, (str, Path)):
        return file_shards(source)
    if isinstance(source, Mapping):
        raise CorpusError(f"a mapping of {', '.join(map(repr, source))} is no corpus: pass one of its parts")
    if not isinstance(source, Iterable):
        raise CorpusError(f"a corpus is a path or an iterable of texts, not {type(source).__name__}")
    name = type(source).__name__
    if name == "DataFrame":
        raise CorpusError("iterating over a DataFrame gives the names of its columns: pass one of them, frame['text']")
    count = _files_of(source)
    if count == 1:
        return [RowsShard(source, name)]
    from datasets.distributed import split_dataset_by_node

    parts = (split_dataset_by_node(source, rank=number, world_size=count) for number in range(count))
    return [RowsShard(part, f"{name}, shard {number}") for number, part in enumerate(parts)]


def extent(shards: list[Shard]) -> str:
    """The length of what is no file, or which part of a streamed data set it is; "" where neither is known."""
    first = shards[0]
    return first.extent if isinstance(first, RowsShard) else ""


def _files_of(source) -> int:
    """How many files a streamed data set gives one after the other, as they are; 1 for anything else.

    What `take`, `interleave_datasets`, ... give depends on all files together, and `split_dataset_by_node` was told which.
    """
    plain = type(getattr(source, "_ex_iterable", None)).__name__ in ("ExamplesIterable", "ArrowExamplesIterable")
    return source.num_shards if plain and source._distributed is None else 1


def described(shards: list[Shard]) -> str:
    """How many shards there are and, of files, a hash of their names without folders: two runs over the same have the same."""
    names = "\0".join(shard.name.rpartition("/")[2] for shard in shards if isinstance(shard, FileShard))
    noun = "part" if len(shards) == 1 else "parts"
    return f"{len(shards):,} {noun}, {hashlib.blake2b(names.encode(), digest_size=4).hexdigest()}"
