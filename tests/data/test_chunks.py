"""Chunks have every text once, and are the same for any number of processes and any start."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling.data.chunks import ChunkSize, ChunkStart, Share, check_finished, chunks
from pymultiling.data.shards import identify_part, shards_of
from pymultiling.errors import CheckpointError, CorpusError
from tests.support.tiny_text import write_text

datasets = pytest.importorskip("datasets")
split_dataset_by_node = pytest.importorskip("datasets.distributed").split_dataset_by_node

FIELDS = ("text",)
SIZE = ChunkSize(texts=3, characters=20)
ALONE = Share()


def read(source, share=ALONE, start=None, size=SIZE) -> list:
    """Returns the chunks of a corpus, after a check that the last one, and no other, marks the end."""
    read_chunks = list(chunks("fr", shards_of(source), FIELDS, size, share, start))
    assert read_chunks[-1].last and read_chunks[-1].records == [] and not any(chunk.last for chunk in read_chunks[:-1])
    return read_chunks


def stream_with_shards(texts: list[list[str]]):
    """Returns a streamed data set with a shard for each list. None of the lists may be empty."""

    def records(parts):
        for part in parts:
            yield from ({"text": text} for text in part)

    return datasets.IterableDataset.from_generator(records, gen_kwargs={"parts": texts})


@given(st.lists(st.text("ab", max_size=9), max_size=40), st.integers(1, 5), st.integers(1, 30))
def test_chunks_have_every_text_once_and_the_requested_size(texts, max_texts, characters):
    text_chunks = read(texts, size=ChunkSize(max_texts, characters))[:-1]
    assert [text for chunk in text_chunks for (text,) in chunk.records] == texts
    for number, chunk in enumerate(text_chunks):
        length = sum(len(text) for (text,) in chunk.records[:-1])
        assert len(chunk.records) <= max_texts and length < characters
        assert chunk.start.chunk == number
        if number < len(text_chunks) - 1:
            assert len(chunk.records) == max_texts or length + len(chunk.records[-1][0]) >= characters


@given(st.lists(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=15), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_any_number_of_processes_reads_the_same_chunks_once(parts):
    source = stream_with_shards(parts)
    alone = [chunk.records for chunk in read(source)[:-1]]
    assert [text for records in alone for (text,) in records] == [text for part in parts for text in part]
    for count in (2, 3, 6):
        for first in (0, 1):
            by_process = [read(source, Share(rank, count, first))[:-1] for rank in range(count)]
            together = [chunk.records for process_chunks in by_process for chunk in process_chunks]
            assert sorted(together) == sorted(alone)
            if len(parts) % count == 0:  # every process reads whole shards
                assert all(
                    len({chunk.shard for chunk in process_chunks}) <= len(parts) // count
                    for process_chunks in by_process
                )
            elif len(parts) == 1:
                assert max(map(len, by_process)) - min(map(len, by_process)) <= 1


def write_files(tmp_path, count: int = 4) -> str:
    """Writes files of 0, 5, 10, ... lines and returns a pattern that names them."""
    for number in range(count):
        write_text(tmp_path / f"{number}.txt", [f"{number} {line}" for line in range(5 * number)])
    return f"{tmp_path}/*.txt"


@pytest.mark.parametrize("share", [Share(), Share(1, 2), Share(0, 3)], ids=str)
def test_reading_from_any_start_gives_the_chunks_that_followed(tmp_path, share):
    source = write_files(tmp_path)
    all_chunks = read(source, share)
    for number, chunk in enumerate(all_chunks):
        assert read(source, share, chunk.start) == all_chunks[number:]


def test_spans_are_the_fractions_of_the_corpus_before_and_after_a_chunk(tmp_path):
    texts = [f"{number}" for number in range(9)]
    assert [chunk.span for chunk in read(texts)] == [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1), (1, 1)]
    spans = [chunk.span for chunk in read(write_files(tmp_path))]
    assert all(0 <= begin <= end <= 1 for begin, end in spans) and spans == sorted(spans)
    assert [chunk.span for chunk in read(iter(texts))] == [None, None, None, (1, 1)]


def test_texts_that_changed_before_the_start_are_refused(tmp_path):
    texts = [f"{number}" for number in range(9)]
    start = read(texts)[1].start
    assert start.record == 3 and read([*texts[:3], "other", "texts"], start=start)
    for changed in (["x", *texts[1:]], [texts[0] + texts[1], "", *texts[2:]], texts[:2]):
        with pytest.raises(CheckpointError, match=r"corpus 'fr' .* the first 3 texts of list changed"):
            read(changed, start=start)
    source = write_files(tmp_path)
    start = read(source)[-2].start
    assert start.shard == 3 and start.record == 12
    write_text(tmp_path / "3.txt", ["other", *(f"3 {line}" for line in range(1, 15))])
    with pytest.raises(CheckpointError, match=r"the first 12 texts of .*3.txt changed"):
        read(source, start=start)
    write_files(tmp_path)
    write_text(tmp_path / "1.txt", ["other"])
    with pytest.raises(CheckpointError, match=r"1.txt changed; give another checkpoint folder"):
        check_finished("fr", shards_of(source), start)
    with pytest.raises(CheckpointError, match="part 3 of it changed"):
        check_finished("fr", shards_of(tmp_path / "0.txt"), replace(start, finished={2: ("x", "")}))


def test_an_empty_corpus_has_only_the_chunk_that_ends_it():
    assert [chunk.start for chunk in read([])] == [ChunkStart(1, 0, 0, "", {0: (shards_of([])[0].fingerprint(), "")})]


def test_a_file_that_vanishes_while_it_is_read_is_an_error(tmp_path):
    path = write_text(tmp_path / "a.txt", [f"line {number}" for number in range(9)])
    remaining = chunks("fr", shards_of(path), FIELDS, SIZE)
    next(remaining)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a.txt: no such file \(any more\)"):
        list(remaining)


def test_the_last_chunk_has_a_hash_of_every_shard(tmp_path):
    def hashes(source, share=ALONE, start=None) -> list[str]:
        return [digest for _, digest in read(source, share, start)[-1].start.finished.values()]

    source = write_files(tmp_path)
    truth = hashes(source)
    assert len(truth) == len(set(truth)) == 4
    assert hashes(source, start=read(source)[5].start) == truth == hashes(source, Share(1, 3))
    assert hashes(source, Share(1, 2)) == [truth[1], truth[3]]  # every process reads whole shards
    write_text(tmp_path / "2.txt", [f"2 {line}" for line in range(9)] + ["other"])
    changed = hashes(source)
    assert [before == after for before, after in zip(truth, changed)] == [True, True, False, True]


def test_streams_have_shards_only_if_these_give_the_same_records():
    parts = [["a", "b"], ["c", "d"], ["e", "f"]]
    source = stream_with_shards(parts)
    for same in (
        source,
        source.map(lambda row: {"text": row["text"] * 2}),
        source.filter(lambda row: row["text"] != "c"),
        source.select_columns(["text"]),
        source.rename_column("text", "words").rename_column("words", "text"),
    ):
        assert [text for chunk in read(same) for (text,) in chunk.records] == [row["text"] for row in same]
        assert [shard.name for shard in shards_of(same)] == [f"IterableDataset, shard {number}" for number in (1, 2, 3)]
    resumed = stream_with_shards(parts)
    records = iter(resumed)
    next(records), next(records), next(records)
    state = resumed.state_dict()
    resumed = stream_with_shards(parts)
    resumed.load_state_dict(state)
    assert [text for chunk in read(resumed) for (text,) in chunk.records] == ["d", "e", "f"]
    other = stream_with_shards([["x"] * 3, ["y"] * 3, ["z"] * 3])
    for changed in (
        source.take(3),
        source.skip(3),
        source.map(lambda row, number: {"text": f"{number} {row['text']}"}, with_indices=True),
        source.map(lambda rows: {"text": ["".join(rows["text"])]}, batched=True),
        source.shuffle(seed=1),
        datasets.interleave_datasets([source, other]),
        split_dataset_by_node(source, 1, 3),
    ):
        assert [text for chunk in read(changed) for (text,) in chunk.records] == [row["text"] for row in changed]
        assert len(shards_of(changed)) == 1
    for split in (
        lambda rank: split_dataset_by_node(source, rank, 3),
        lambda rank: stream_with_shards([parts[rank], ["x"]]),
    ):
        assert len({identify_part(shards_of(split(rank))) for rank in range(3)}) == 3
