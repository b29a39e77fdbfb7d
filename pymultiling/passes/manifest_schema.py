"""What the manifest of a state must hold, for `Checkpoints.restore`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pymultiling.runtime.schemas import Count, Schema

# JSON has lists only, which are read as tuples.
Hashes = Annotated[tuple[str, str], Field(strict=False)]
FinishedShard = Annotated[tuple[Count, Hashes], Field(strict=False)]


class Place(Schema):
    """A `ChunkStart`. Earlier ones lack `tokens`."""

    shard: Count
    row: Count
    chunk: Count
    digest: str
    finished: list[FinishedShard]
    tokens: Count = 0


class Report(Schema):
    """A `CorpusReport`. A count that an earlier version did not have is 0."""

    texts: Count = 0
    empty: Count = 0
    short: Count = 0
    replaced: Count = 0
    cut: Count = 0
    left_over: Count = 0


class ManifestSchema(Schema):
    """A manifest without its checksum. Earlier ones lack `batch_tokens`."""

    run: dict[str, Any]
    place: Place
    digest: str
    batches: Count
    documents: Count
    before: Report
    report: Report
    ended: bool
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    tensors: str
