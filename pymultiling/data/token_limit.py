"""Takes the first documents of each corpus, as many as have at most a given number of tokens.

Which documents these are depends on all that come before. So every process reads and tokenises a corpus from its
beginning until it has enough, and measures its own chunks only. The documents are the same for any number of processes,
and those that a pass over the whole corpus measures first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pymultiling.data.chunks import Chunk, Share
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.shards import Shard
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.errors import CorpusError


class TokenLimit:
    """Ends each corpus of a pass when enough tokens of it were taken.

    Args:
        tokens: how many tokens that count are taken of each corpus, at most.
        tokenisation: how records become documents.
        shards: {corpus: its shards}.
        shares: {corpus: the part of its chunks that this process measures}.
    """

    def __init__(
        self,
        tokens: int,
        tokenisation: Tokenisation,
        shards: Mapping[str, Sequence[Shard]],
        shares: Mapping[str, Share],
    ):
        self._limit, self._tokenisation = tokens, tokenisation
        self._shards, self._shares = shards, shares
        self._taken: dict[str, int] = {}
        self._full: set[str] = set()

    def until_full(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yields all chunks of a corpus, those of other processes too, until `take` has enough of them."""
        for chunk in chunks:
            if chunk.corpus in self._full:
                return
            yield chunk

    def take(self, stream: Iterator[tuple[Chunk, Documents]]) -> Iterator[tuple[Chunk, Documents]]:
        """Yields the chunks of this process, and for each corpus a chunk that marks its end.

        Args:
            stream: all chunks of the corpora with their documents. More chunks may come after enough were taken, since
                they are read in advance. They are left out.

        Yields:
            Each chunk with the documents that are taken, and with `tokens` in its start. The spans are fractions of
            the tokens that are taken at most, or of the corpus, whichever is more: a corpus may have fewer tokens.

        Raises:
            CorpusError: the first document has too many tokens.
        """
        for chunk, documents in stream:
            if chunk.corpus in self._full:
                continue
            before = self._taken.get(chunk.corpus, chunk.start.tokens)
            room = self._limit - before
            if documents.counted > room:
                documents = self._tokenisation.first(chunk.records, room)
                self._full.add(chunk.corpus)
            after = self._taken[chunk.corpus] = before + documents.counted
            if after == 0 and chunk.corpus in self._full:
                raise CorpusError(
                    f"its first document has more than {self._limit:,} tokens: take more (tokens, --tokens), or cut "
                    "documents shorter (max_length, --max-length)"
                )
            if after == self._limit:
                self._full.add(chunk.corpus)
            start, span = replace(chunk.start, tokens=before), (before / self._limit, after / self._limit)
            if chunk.span is not None:
                span = max(span[0], chunk.span[0]), max(span[1], chunk.span[1])
            if chunk.last or self._shares[chunk.corpus].includes(start.chunk):
                yield replace(chunk, start=start, span=span), documents
            if chunk.corpus in self._full and not chunk.last:
                yield self._end(chunk, after), Documents.of([], CorpusReport())

    def _end(self, chunk: Chunk, taken: int) -> Chunk:
        """Returns the chunk that marks the end of a corpus of which this chunk is the last that is needed."""
        number = chunk.start.shard
        shard = self._shards[chunk.corpus][number].fingerprint(), chunk.digest
        start = replace(
            chunk.start,
            shard=number + 1,
            record=0,
            digest="",
            finished={**chunk.start.finished, number: shard},
            tokens=taken,
        )
        return Chunk(chunk.corpus, start, "", [], "", (1.0, 1.0), last=True)
