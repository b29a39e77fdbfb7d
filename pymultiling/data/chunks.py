"""Chunks: runs of consecutive texts, the unit of work of a pass over corpora.

A corpus falls into the same chunks for any number of processes and wherever reading begins. Each is one process's alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from pymultiling.data.rows import Row
from pymultiling.data.shards import Shard
from pymultiling.errors import CheckpointError

# For each token of a batch, but no fewer than for LEAST: chunks give some 64 batches, so that their documents are of like length.
# Evidence: short texts (19 tokens in the mean), batches of 4,096 tokens: 22% padding with 1,024 texts in a chunk, 3.0%
# (German, Chinese) and 3.6% (English) with these; two cores, 2026-11-21.
TEXTS = 4
CHARACTERS = 256
LEAST = 256


@dataclass(frozen=True)
class ChunkStart:
    """Where a chunk of a corpus begins.

    Attributes:
        shard: its number.
        record: how many records of the shard come before it.
        chunk: how many chunks come before it, of the shards that this process reads.
        digest: a hash of these rows.
        finished: {number of a shard that was read to its end: its fingerprint, and a hash of its rows}.
    """

    shard: int = 0
    record: int = 0
    chunk: int = 0
    digest: str = ""
    finished: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Rows of a corpus.

    Attributes:
        corpus: its name.
        start: where the chunk begins.
        shard: the name of the shard.
        rows: the texts; none where it is the last chunk, which says that nothing more comes.
        digest: a hash of the shard's rows up to the chunk's end.
        span: the parts of the corpus before its beginning and before its end, 0 to 1; None where nobody knows.
    """

    corpus: str
    start: ChunkStart
    shard: str
    rows: list[Row]
    digest: str
    span: tuple[float, float] | None
    last: bool = False


@dataclass(frozen=True)
class ChunkSize:
    """Where a chunk ends: at so many texts or characters, whichever comes first."""

    texts: int
    characters: int

    @classmethod
    def of(cls, batch_tokens: int) -> ChunkSize:
        """For batches of so many tokens."""
        return cls(TEXTS * max(LEAST, batch_tokens), CHARACTERS * max(LEAST, batch_tokens))


@dataclass(frozen=True)
class Share:
    """The part of a corpus that is one process's: whole shards where they can be dealt out evenly, otherwise every so many chunks.

    (datasets.distributed.split_dataset_by_node deals out the shards of a streamed data set in the same way.)

    Attributes:
        rank, processes: this process's number and how many there are.
        first: the process that gets the first chunk.
    """

    rank: int = 0
    processes: int = 1
    first: int = 0

    def of_shards(self, count: int) -> bool:
        """Whether whole shards are dealt out."""
        return count % self.processes == 0

    def has(self, number: int) -> bool:
        """Whether the chunk or shard of this number is this process's."""
        return (self.first + number) % self.processes == self.rank


def chunks(
    corpus: str,
    shards: list[Shard],
    fields: tuple[str, ...],
    size: ChunkSize,
    share: Share = Share(),
    start: ChunkStart | None = None,
) -> Iterator[Chunk]:
    """The chunks of a process from a place on, and one without rows behind the last.

    Raises:
        CorpusError: the corpus cannot be read.
        CheckpointError: what comes before `start` is not what it was.
    """
    place = start or ChunkStart()
    whole = share.of_shards(len(shards))
    for number in range(place.shard, len(shards)):
        shard = shards[number]
        if whole and not share.has(number):
            continue
        if number > place.shard:
            place = replace(place, shard=number, record=0, digest="")
        read = place.digest
        for place, rows, read, span in _runs(corpus, shard, fields, size, place):
            if whole or share.has(place.chunk):
                span = None if None in span else tuple((number + part) / len(shards) for part in span)
                yield Chunk(corpus, place, shard.name, rows, read, span)
            place = replace(place, chunk=place.chunk + 1)
        finished = {**place.finished, number: (shard.fingerprint(), read)}
        place = replace(place, shard=number + 1, record=0, digest="", finished=finished)
    yield Chunk(corpus, replace(place, shard=len(shards), record=0, digest=""), "", [], "", (1.0, 1.0), last=True)


def _runs(
    corpus: str, shard: Shard, fields: tuple[str, ...], size: ChunkSize, place: ChunkStart
) -> Iterator[tuple[ChunkStart, list[Row], str, tuple[float | None, float | None]]]:
    """Where consecutive rows of the shard begin, the rows, a hash of all up to them, and how much is read before and after."""
    digest = hashlib.blake2b(digest_size=16)
    numbered = enumerate(shard.rows(fields), 1)
    before = 0
    for before, row in islice(numbered, place.record):
        digest.update(_bytes(row))
    if before < place.record or (place.record and digest.hexdigest() != place.digest):
        raise changed(corpus, f"the first {place.record:,} texts of {shard.name}")
    done, rows, characters = shard.done if before else 0.0, [], 0
    for number, row in numbered:
        digest.update(_bytes(row))
        rows.append(row)
        characters += sum(map(len, row))
        if len(rows) == size.texts or characters >= size.characters:
            yield place, rows, digest.hexdigest(), (done, shard.done)
            place = replace(place, record=number, chunk=place.chunk + 1, digest=digest.hexdigest())
            done, rows, characters = shard.done, [], 0
    if rows:
        yield place, rows, digest.hexdigest(), (done, shard.done)


def _bytes(row: Row) -> bytes:
    return "\0".join((*row, "")).encode("utf-8", "surrogatepass")


def check_finished(corpus: str, shards: list[Shard], place: ChunkStart) -> None:
    """CheckpointError where a shard that was read to its end before `place` is not what it was."""
    for number, (fingerprint, _) in place.finished.items():
        if number >= len(shards) or shards[number].fingerprint() != fingerprint:
            raise changed(corpus, shards[number].name if number < len(shards) else f"part {number} of it")


def changed(corpus: str, what: str) -> CheckpointError:
    """What to raise where texts that were measured are not there any more."""
    return CheckpointError(
        f"corpus {corpus!r} is not what the checkpoint was made of: {what} changed; give another folder as checkpoint"
    )
