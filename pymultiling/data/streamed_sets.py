"""Streamed data sets (datasets.IterableDataset) as the shards that they consist of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Classes of `datasets` whose records depend on one record of the stream below, or on a file. Nothing public tells which
# ones do. After a class that is not listed a data set is read as a whole, which is right and slower.
FILE_STREAMS = ("ExamplesIterable", "ArrowExamplesIterable")
RECORDWISE_STREAMS = (
    "FilteredExamplesIterable",  # filter
    "FormattedExamplesIterable",  # with_format, and below map and filter
    "MappedExamplesIterable",  # map, rename_column, remove_columns
    "RebatchedArrowExamplesIterable",  # below map and filter of Arrow tables, such as those of parquet files
    "SelectColumnsIterable",  # select_columns
)


def split_stream(source: Iterable[object]) -> list[Iterable[object]]:
    """Returns the shards of a streamed data set, or the source itself for all others.

    One after the other, the shards have the records of the data set, in its order. So the parts of a data set do not
    depend on the number of processes. A data set after `take`, `skip`, `shuffle`, `interleave_datasets`, or a `map` of
    batches or with indices is one part: what these give depends on all files together. So is one of which
    `split_dataset_by_node` or `load_state_dict` has determined the part that is read.
    """
    count = getattr(source, "num_shards", getattr(source, "n_shards", 1))  # n_shards before datasets 3.1
    if not hasattr(source, "_ex_iterable") or count == 1 or not _is_recordwise(source):
        return [source]
    from datasets.distributed import split_dataset_by_node

    return [split_dataset_by_node(source, rank=number, world_size=count) for number in range(count)]


def _is_recordwise(source: Any) -> bool:
    """Whether a data set has the records of its files one after the other, each changed or left out by itself."""
    if getattr(source, "_distributed", None) or getattr(source, "_starting_state_dict", None):
        return False
    stream = source._ex_iterable
    while type(stream).__name__ in RECORDWISE_STREAMS:
        if getattr(stream, "batched", False) or getattr(stream, "with_indices", False):
            return False
        stream = stream.ex_iterable
    return type(stream).__name__ in FILE_STREAMS
