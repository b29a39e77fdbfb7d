"""Chunks: consecutive records of a corpus, the unit of work that is shared between processes.

A corpus has the same chunks for any number of processes, and wherever reading starts. Each chunk belongs to one
process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import NamedTuple

from pymultiling.data.rows import Record
from pymultiling.data.shards import Shard, shard_sizes
from pymultiling.errors import CheckpointError

# A chunk has this many texts or characters for each token of a batch. A batch of fewer than LEAST tokens counts as
# LEAST tokens. A chunk then gives about 64 batches, so that the documents of a batch are of similar length. Measured
# with short texts (mean 19 tokens) and batches of 4,096 tokens: 22% padding with 1,024 texts in a chunk, 3.0% (German,
# Chinese) and 3.6% (English) with these values (two cores, 2026-11-21).
TEXTS = 4
CHARACTERS = 256
LEAST = 256


@dataclass(frozen=True)
class ChunkStart:
    """Where a chunk of a corpus starts.

    Attributes:
        shard: number of the shard.
        record: how many records of the shard come before the chunk.
        chunk: how many chunks come before it in the shards that this process reads. In a shard that several processes
            read, this includes the chunks that other processes measure.
        digest: hash of the records of the shard that come before the chunk.
        finished: {number of a shard that was read to its end: (its fingerprint, hash of its records)}. A shard of which
            enough was read counts as read.
        tokens: how many tokens were taken from the corpus before the chunk, by all processes. It is 0 if all are taken.
    """

    shard: int = 0
    record: int = 0
    chunk: int = 0
    digest: str = ""
    finished: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    tokens: int = 0


@dataclass(frozen=True)
class Chunk:
    """Consecutive records of a corpus.

    Attributes:
        corpus: name of the corpus.
        start: where the chunk starts.
        shard: name of the shard.
        records: the records. The last chunk has none.
        digest: hash of the shard's records up to the end of the chunk.
        span: fractions of the corpus before the start and before the end of the chunk, or None if they are unknown.
        last: whether this chunk only marks the end of the corpus.
    """

    corpus: str
    start: ChunkStart
    shard: str
    records: list[Record]
    digest: str
    span: tuple[float, float] | None
    last: bool = False


@dataclass(frozen=True)
class ChunkSize:
    """Where a chunk ends: at this many texts or characters, whichever comes first."""

    texts: int
    characters: int

    @classmethod
    def of(cls, batch_tokens: int) -> ChunkSize:
        """Returns the size for batches of this many tokens."""
        return cls(TEXTS * max(LEAST, batch_tokens), CHARACTERS * max(LEAST, batch_tokens))


@dataclass(frozen=True)
class Share:
    """The part of a corpus that one process reads.

    With n processes it is every n-th shard if the number of shards is a multiple of n, otherwise every n-th chunk.
    `datasets.distributed.split_dataset_by_node` distributes the shards of a streamed data set in the same way.

    Attributes:
        rank: number of this process.
        processes: how many processes there are.
        first: the process that gets the first shard or chunk.
    """

    rank: int = 0
    processes: int = 1
    first: int = 0

    def has_whole_shards(self, count: int) -> bool:
        """Whether processes read whole shards, in a corpus of `count` shards. If not, they read every n-th chunk."""
        return count % self.processes == 0

    def includes(self, number: int) -> bool:
        """Whether the shard or chunk with this number belongs to this process."""
        return (self.first + number) % self.processes == self.rank


def chunks(
    corpus: str,
    shards: Sequence[Shard],
    fields: tuple[str, ...],
    size: ChunkSize,
    share: Share = Share(),
    start: ChunkStart | None = None,
) -> Iterator[Chunk]:
    """Yields the chunks of a process from a start on, and then a chunk without records that marks the end.

    Args:
        corpus: name of the corpus.
        shards: the shards of the corpus.
        fields: the fields of a record that are read.
        size: where a chunk ends.
        share: the part of the corpus that this process reads.
        start: where reading starts; None: at the beginning.

    Raises:
        CorpusError: the corpus cannot be read.
        CheckpointError: the records before `start` in its shard have changed. `check_finished` tells whether the
            shards before it have.
    """
    position = start or ChunkStart()
    whole_shards = share.has_whole_shards(len(shards))
    starts = _fractions_before(shards)
    for number in range(position.shard, len(shards)):
        shard = shards[number]
        if whole_shards and not share.includes(number):
            continue
        if number > position.shard:
            position = replace(position, shard=number, record=0, digest="")
        digest = position.digest
        for run in _split_shard(corpus, shard, fields, size, position):
            position, digest = run.start, run.digest
            if whole_shards or share.includes(position.chunk):
                span = None
                if run.before is not None and run.after is not None:
                    begin, length = starts[number], starts[number + 1] - starts[number]
                    span = begin + run.before * length, begin + run.after * length
                yield Chunk(corpus, position, shard.name, run.records, digest, span)
            position = replace(position, chunk=position.chunk + 1)
        finished = {**position.finished, number: (shard.fingerprint(), digest)}
        position = replace(position, shard=number + 1, record=0, digest="", finished=finished)
    end = replace(position, shard=len(shards), record=0, digest="")
    yield Chunk(corpus, end, "", [], "", (1.0, 1.0), last=True)


def _fractions_before(shards: Sequence[Shard]) -> list[float]:
    """Returns the fractions of the corpus before each shard, and 1. Shards of unknown sizes count as equal."""
    sizes = shard_sizes(shards)
    if sizes is None or not sum(sizes):
        sizes = [1.0] * len(shards)
    total = sum(sizes)
    return [end / total for end in accumulate(sizes, initial=0.0)]


class _Run(NamedTuple):
    """The records of a chunk.

    Attributes:
        start: where the chunk starts.
        records: the records.
        digest: hash of the shard's records up to the end of these.
        before: fraction of the shard that was read before the first record, or None if it is unknown.
        after: fraction of the shard that was read with the last record, or None if it is unknown.
    """

    start: ChunkStart
    records: list[Record]
    digest: str
    before: float | None
    after: float | None


def _split_shard(
    corpus: str, shard: Shard, fields: tuple[str, ...], size: ChunkSize, start: ChunkStart
) -> Iterator[_Run]:
    """Yields the records of a shard from `start` on, chunk by chunk."""
    digest = hashlib.blake2b(digest_size=16)
    shard_records = shard.records(fields)
    skipped = 0
    for record in islice(shard_records, start.record):
        digest.update(_encode(record))
        skipped += 1
    if skipped < start.record or (start.record and digest.hexdigest() != start.digest):
        raise corpus_changed(corpus, f"the first {start.record:,} texts of {shard.name}")
    before = shard.done if skipped else 0.0
    records: list[Record] = []
    characters = 0
    for number, record in enumerate(shard_records, skipped + 1):
        digest.update(_encode(record))
        records.append(record)
        characters += sum(map(len, record))
        if len(records) == size.texts or characters >= size.characters:
            yield _Run(start, records, digest.hexdigest(), before, shard.done)
            start = replace(start, record=number, chunk=start.chunk + 1, digest=digest.hexdigest())
            before, records, characters = shard.done, [], 0
    if records:
        yield _Run(start, records, digest.hexdigest(), before, shard.done)


def _encode(record: Record) -> bytes:
    return "\0".join((*record, "")).encode("utf-8", "surrogatepass")


def check_finished(corpus: str, shards: Sequence[Shard], start: ChunkStart) -> None:
    """Checks that the shards that were read to their end before `start` are still the same.

    Raises:
        CheckpointError: one of them has changed or is gone.
    """
    for number, (fingerprint, _) in start.finished.items():
        if number >= len(shards) or shards[number].fingerprint() != fingerprint:
            raise corpus_changed(corpus, shards[number].name if number < len(shards) else f"part {number + 1} of it")


def corpus_changed(corpus: str, part: str) -> CheckpointError:
    """Returns the error for a corpus of which a part has changed since the checkpoint was written."""
    return CheckpointError(
        f"corpus {corpus!r} differs from the corpus of the checkpoint: {part} changed; give another checkpoint folder"
    )
