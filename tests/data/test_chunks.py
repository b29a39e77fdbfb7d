"""Chunks: every text once, the same chunks for any number of processes and from any place on."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymultiling.data.chunks import ChunkSize, ChunkStart, Share, check_finished, chunks
from pymultiling.data.shards import extent, shards_of
from pymultiling.errors import CheckpointError, CorpusError
from tests.support.tiny_text import write_text

datasets = pytest.importorskip("datasets")
split_dataset_by_node = pytest.importorskip("datasets.distributed").split_dataset_by_node

FIELDS = ("text",)
SIZE = ChunkSize(texts=3, characters=20)


def read(source, share=Share(), start=None, size=SIZE) -> list:
    found = list(chunks("fr", shards_of(source), FIELDS, size, share, start))
    assert found[-1].last and found[-1].records == [] and not any(chunk.last for chunk in found[:-1])
    return found


def streamed(texts: list[list[str]]):
    """A streamed data set with a shard for each list, none of them empty."""

    def rows(parts):
        for part in parts:
            yield from ({"text": text} for text in part)

    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"parts": texts})


@given(st.lists(st.text("ab", max_size=9), max_size=40), st.integers(1, 5), st.integers(1, 30))
def test_every_text_once_in_chunks_of_the_size(texts, most, characters):
    found = read(texts, size=ChunkSize(most, characters))[:-1]
    assert [text for chunk in found for (text,) in chunk.records] == texts
    for number, chunk in enumerate(found):
        length = sum(len(text) for (text,) in chunk.records[:-1])
        assert len(chunk.records) <= most and length < characters
        assert chunk.start.chunk == number
        if number < len(found) - 1:
            assert len(chunk.records) == most or length + len(chunk.records[-1][0]) >= characters


@given(st.lists(st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=15), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_any_number_of_processes_has_the_same_chunks_each_once(parts):
    source = streamed(parts)
    alone = [chunk.records for chunk in read(source)[:-1]]
    assert [text for rows in alone for (text,) in rows] == sum(parts, [])
    for count in (2, 3, 6):
        for first in (0, 1):
            shared = [read(source, Share(rank, count, first))[:-1] for rank in range(count)]
            together = [chunk.records for one in shared for chunk in one]
            assert sorted(together) == sorted(alone)
            if len(parts) % count == 0:  # whole shards: nobody reads the others'
                assert all(len({chunk.shard for chunk in one}) <= len(parts) // count for one in shared)
            elif len(parts) == 1:
                assert max(map(len, shared)) - min(map(len, shared)) <= 1


def many(tmp_path, count: int = 4) -> str:
    for number in range(count):
        write_text(tmp_path / f"{number}.txt", [f"{number} {line}" for line in range(5 * number)])
    return f"{tmp_path}/*.txt"


@pytest.mark.parametrize("share", [Share(), Share(1, 2), Share(0, 3)], ids=str)
def test_from_every_place_on_come_the_chunks_that_followed(tmp_path, share):
    source = many(tmp_path)
    found = read(source, share)
    for number, chunk in enumerate(found):
        assert read(source, share, chunk.start) == found[number:]


def test_the_span_says_how_much_of_a_corpus_there_is(tmp_path):
    texts = [f"{number}" for number in range(9)]
    assert [chunk.span for chunk in read(texts)] == [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1), (1, 1)]
    spans = [chunk.span for chunk in read(many(tmp_path))]
    assert all(0 <= begin <= end <= 1 for begin, end in spans) and spans == sorted(spans)
    assert [chunk.span for chunk in read(iter(texts))] == [None, None, None, (1, 1)]


def test_texts_that_changed_before_the_place_are_noticed(tmp_path):
    texts = [f"{number}" for number in range(9)]
    place = read(texts)[1].start
    assert place.record == 3 and read(texts[:3] + ["other", "texts"], start=place)
    for changed in (["x", *texts[1:]], [texts[0] + texts[1], "", *texts[2:]], texts[:2]):
        with pytest.raises(CheckpointError, match="corpus 'fr' .* the first 3 texts of list changed"):
            read(changed, start=place)
    source = many(tmp_path)
    place = read(source)[-2].start
    assert place.shard == 3 and place.record == 12
    write_text(tmp_path / "3.txt", ["other", *(f"3 {line}" for line in range(1, 15))])
    with pytest.raises(CheckpointError, match="the first 12 texts of .*3.txt changed"):
        read(source, start=place)
    many(tmp_path)
    write_text(tmp_path / "1.txt", ["other"])
    with pytest.raises(CheckpointError, match="1.txt changed; give another folder as checkpoint"):
        check_finished("fr", shards_of(source), place)
    with pytest.raises(CheckpointError, match="part 2 of it changed"):
        check_finished("fr", shards_of(tmp_path / "0.txt"), replace(place, finished={2: ("x", "")}))


def test_an_empty_corpus_ends_at_once():
    assert [chunk.start for chunk in read([])] == [ChunkStart(1, 0, 0, "", {0: (shards_of([])[0].fingerprint(), "")})]


def test_a_file_that_vanishes_while_it_is_read_is_not_finished(tmp_path):
    path = write_text(tmp_path / "a.txt", [f"line {number}" for number in range(9)])
    coming = chunks("fr", shards_of(path), FIELDS, SIZE)
    next(coming)
    path.unlink()
    with pytest.raises(CorpusError, match=r"a.txt: no such file \(any more\)"):
        list(coming)


def test_the_end_has_a_hash_of_every_part(tmp_path):
    def hashes(source, share=Share(), start=None) -> list[str]:
        return [digest for _, digest in read(source, share, start)[-1].start.finished.values()]

    source = many(tmp_path)
    truth = hashes(source)
    assert len(truth) == len(set(truth)) == 4
    assert hashes(source, start=read(source)[5].start) == truth == hashes(source, Share(1, 3))
    assert hashes(source, Share(1, 2)) == [truth[1], truth[3]]  # whole parts are dealt out
    write_text(tmp_path / "2.txt", [f"2 {line}" for line in range(9)] + ["other"])
    changed = hashes(source)
    assert [one == other for one, other in zip(truth, changed)] == [True, True, False, True]


def test_streams_are_read_in_parts_where_that_gives_the_same():
    parts = [["a", "b"], ["c", "d"], ["e", "f"]]
    source = streamed(parts)
    for same in (
        source,
        source.map(lambda row: {"text": row["text"] * 2}),
        source.filter(lambda row: row["text"] != "c"),
        source.select_columns(["text"]),
        source.rename_column("text", "words").rename_column("words", "text"),
    ):
        assert [text for chunk in read(same) for (text,) in chunk.records] == [row["text"] for row in same]
        assert len(shards_of(same)) == 3
    begun = streamed(parts)
    rows = iter(begun)
    next(rows), next(rows), next(rows)
    state = begun.state_dict()
    begun = streamed(parts)
    begun.load_state_dict(state)
    assert [text for chunk in read(begun) for (text,) in chunk.records] == ["d", "e", "f"]
    other = streamed([["x"] * 3, ["y"] * 3, ["z"] * 3])
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
    for split in (lambda rank: split_dataset_by_node(source, rank, 3), lambda rank: streamed([parts[rank], ["x"]])):
        assert len({extent(shards_of(split(rank))) for rank in range(3)}) == 3
