"""Streamed data sets of several kinds of files: what is divided between processes, and that nothing is read twice."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from pymultiling.data.chunks import ChunkSize, Share, chunks
from pymultiling.data.shards import shards_of
from pymultiling.data.streamed_sets import split_stream

datasets = pytest.importorskip("datasets")

FILES = 4
SIZE = ChunkSize(texts=3, characters=1000)
RECORDWISE = {
    "as loaded": lambda stream: stream,
    "map": lambda stream: stream.map(lambda row: {"text": row["text"] * 2}),
    "filter": lambda stream: stream.filter(lambda row: "line 1" not in row["text"]),
    "rename_column": lambda stream: stream.rename_column("text", "words").rename_column("words", "text"),
    "remove_columns": lambda stream: stream.map(lambda row: {"other": 1}).remove_columns("other"),
    "select_columns": lambda stream: stream.select_columns(["text"]),
    "with_format": lambda stream: stream.with_format("numpy").map(lambda row: {"text": str(row["text"])}),
    "all": lambda stream: stream.filter(lambda row: True).map(lambda row: {"a": row["text"]}).select_columns(["text"]),
}
DEPENDENT = {
    "take": lambda stream: stream.take(7),
    "skip": lambda stream: stream.skip(7),
    "shuffle": lambda stream: stream.shuffle(seed=1),
    "map after take": lambda stream: stream.take(7).map(lambda row: {"text": row["text"] * 2}),
    "batched map": lambda stream: stream.map(lambda rows: {"text": ["".join(rows["text"])]}, batched=True),
    "map with indices": lambda stream: stream.map(lambda row, i: {"text": f"{i} {row['text']}"}, with_indices=True),
    "interleave_datasets": lambda stream: datasets.interleave_datasets([stream, stream]),
    "repeat": lambda stream: stream.repeat(2),
}


@pytest.fixture(params=["parquet", "json", "text"])
def stream(request, tmp_path):
    """A streamed data set of several files of five lines."""
    for number in range(FILES):
        lines = [f"file {number} line {line}" for line in range(5)]
        path = tmp_path / f"{number}.{request.param}"
        if request.param == "parquet":
            parquet.write_table(pyarrow.table({"text": lines}), path)
        else:
            is_json = request.param == "json"
            path.write_text("".join(f"{json.dumps({'text': line}) if is_json else line}\n" for line in lines))
    files = f"{tmp_path}/*.{request.param}"
    return datasets.load_dataset(request.param, data_files=files, split="train", streaming=True)


@pytest.mark.parametrize("name", RECORDWISE)
def test_two_processes_read_each_document_once(stream, name):
    reads = []
    source = RECORDWISE[name](stream).map(lambda row: reads.append(row["text"]) or row)
    expected = [row["text"] for row in source]
    assert [row["text"] for part in split_stream(source) for row in part] == expected
    reads.clear()
    of_processes = [list(chunks("fr", shards_of(source), ("text",), SIZE, Share(rank, 2))) for rank in range(2)]
    texts = [text for own in of_processes for chunk in own for (text,) in chunk.records]
    assert sorted(texts) == sorted(expected)
    # The first record of each file is read again for its fingerprint, after its end.
    assert len(reads) == len(expected) + FILES
    for own in of_processes:
        assert len({chunk.shard for chunk in own if not chunk.last}) == FILES / 2


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_all_files_is_not_divided(stream, name):
    source = DEPENDENT[name](stream)
    expected = [row["text"] for row in source]
    assert split_stream(source) == [source]
    of_processes = [list(chunks("fr", shards_of(source), ("text",), SIZE, Share(rank, 2))) for rank in range(2)]
    texts = [text for own in of_processes for chunk in own for (text,) in chunk.records]
    assert sorted(texts) == sorted(expected)


def test_other_iterables_are_one_part():
    for source in (["a", "b"], iter("ab"), datasets.Dataset.from_dict({"text": ["a"]})):
        assert split_stream(source) == [source]
