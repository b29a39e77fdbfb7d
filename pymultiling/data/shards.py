"""A corpus as shards: files, the shards of a streamed data set, or one iterable; each is rows of strings, read in order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.data.file_shards import FileShard, file_shards, names_file
from pymultiling.data.rows import Row, errors_of, strings
from pymultiling.errors import CorpusError

if TYPE_CHECKING:
    from pymultiling.data.corpora import Corpus, PairCorpus

# What datasets calls a stream of files, and what it makes of one by its `select_columns`, `filter`, `map` and `rename_column`.
OF_FILES = ("ExamplesIterable", "ArrowExamplesIterable")
BY_ROW = ("SelectColumnsIterable", "FilteredExamplesIterable", "MappedExamplesIterable")


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
            CorpusError: the source fails, or a row has no such strings.
        """
        with errors_of(self.name):
            for number, row in enumerate(self._source, 1):
                if self._length:
                    self.done = number / self._length
                if isinstance(row, (tuple, list)) and len(row) == len(fields) > 1:
                    row = dict(zip(fields, row))
                if len(fields) == 1 and (
                    row is None or (isinstance(row, float) and row != row)
                ):  # null, and pandas' own
                    row = ""
                yield (row,) if isinstance(row, str) and len(fields) == 1 else strings(row, fields, f"row {number}")

    @property
    def size(self) -> int | None:
        """Rows; None where nobody knows."""
        return self._length

    def beginning(self) -> str:
        """A hash of the first row."""
        return hashlib.blake2b(
            repr(next(iter(self._source), None)).encode("utf-8", "replace"), digest_size=8
        ).hexdigest()

    def fingerprint(self) -> str:
        """The data set's own, or a hash of a list, or of a stream's first row; "" for what cannot be looked at twice."""
        if isinstance(self._source, (list, tuple)):
            digest = hashlib.blake2b(digest_size=16)
            for row in self._source:
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
            return digest.hexdigest()
        if hasattr(self._source, "_ex_iterable"):  # a datasets.IterableDataset
            return self.beginning()
        return getattr(self._source, "_fingerprint", "")


Shard = FileShard | RowsShard


def shards_of(source: Corpus | PairCorpus) -> list[Shard]:
    """The shards of a corpus, at least one.

    Args:
        source: a path, a URL that fsspec knows, or a pattern of either with *; a list of pathlib.Path; or an iterable of strings
            or of rows, such as a datasets.Dataset. A streamed data set (datasets.IterableDataset) has as many shards as files; after
            anything that is not done row by row, such as `take` and `interleave_datasets`, one.

    Raises:
        CorpusError: there is nothing to read, or a list of strings names files.
    """
    if isinstance(source, (str, Path)):
        return file_shards(source)
    if isinstance(source, (list, tuple)) and source:
        if all(isinstance(one, Path) for one in source):
            return [shard for one in source for shard in file_shards(one)]
        if isinstance(source[0], str) and names_file(source[0]):
            raise CorpusError(
                f"{source[0]!r} in a list is a text, but names a file: give a list of pathlib.Path, or a pattern"
            )
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
    """Something that differs between processes that were given different parts of one corpus, where it is known before all is read."""
    first = shards[0]
    if isinstance(first, FileShard):
        return first.fingerprint()
    return first.beginning() if len(shards) > 1 else first.extent


def sizes(corpora: list[list[Shard]]) -> list[float]:
    """How large the corpora are beside each other: in bytes or rows where all are known in one of these, else all the same."""
    kinds = {type(shard) for shards in corpora for shard in shards}
    known = [[shard.size for shard in shards] for shards in corpora] if len(kinds) == 1 else [[None]]
    if any(None in of_corpus for of_corpus in known):
        return [1.0] * len(corpora)
    return [max(1.0, float(sum(of_corpus))) for of_corpus in known]


def _files_of(source) -> int:
    """How many files a streamed data set gives one after the other, row by row; 1 for anything else.

    What `take`, `interleave_datasets`, ... give depends on all files together; `split_dataset_by_node` and `load_state_dict` were
    told where to read.
    """
    if getattr(source, "_distributed", None) or getattr(source, "_starting_state_dict", None):
        return 1
    rows = getattr(source, "_ex_iterable", None)
    while (
        type(rows).__name__ in BY_ROW
        and not getattr(rows, "batched", False)
        and not getattr(rows, "with_indices", False)
    ):
        rows = rows.ex_iterable
    return getattr(source, "num_shards", 1) if type(rows).__name__ in OF_FILES else 1


def described(shards: list[Shard]) -> str:
    """A file's name, or how many shards there are and, of files, a hash of their names; without folders, which may change."""
    names = [shard.name.rpartition("/")[2] for shard in shards if isinstance(shard, FileShard)]
    if len(names) == 1:
        return names[0]
    noun = "part" if len(shards) == 1 else "parts"
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=4).hexdigest()
    return f"{len(shards):,} {noun}" + (f", {digest}" if names else "")


def check_first_row(shards: list[Shard], fields: tuple[str, ...]) -> None:
    """CorpusError where the first row of files, which can be read twice, has not what is looked for."""
    if isinstance(shards[0], FileShard):
        with closing(shards[0].rows(fields)) as rows:
            next(rows, None)
