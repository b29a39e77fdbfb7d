"""A pass over corpora: statistics of every corpus, batch by batch, in as many processes as there are, from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, batches
from pymultiling.data.chunks import Chunk, ChunkSize, Share, changed, check_finished, chunks
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.documents import tokenizer_hash
from pymultiling.data.shards import check_first_row, described, extent, shards_of
from pymultiling.data.streams import stream
from pymultiling.data.tokenising import Documents, Tokenising
from pymultiling.errors import CorpusError
from pymultiling.passes.agreement import check_same_call, check_same_texts
from pymultiling.passes.checkpoints import Every, Standing, opened
from pymultiling.passes.document_names import naming
from pymultiling.passes.identity import model_hash
from pymultiling.passes.memory import WithinMemory
from pymultiling.runtime.processes import Processes, processes
from pymultiling.runtime.progress import Pace, progress, say


class Statistics(Protocol):
    """What a pass sums up."""

    def __add__(self, other): ...
    def over(self, processes: Processes): ...
    def save(self, path: Path): ...
    @classmethod
    def load(cls, path: Path): ...


@dataclass(frozen=True)
class Options:
    """How a pass is run; none of it but `batch_tokens` decides what comes out.

    Attributes:
        batch_tokens: tokens in one forward, padding included.
        workers: processes that tokenise beside the forward.
        checkpoint: a folder for the state; None: none is kept.
        every: when the state is written.
        progress: show it on stderr.
    """

    batch_tokens: int
    workers: int
    checkpoint: str | Path | None
    every: Every
    progress: bool

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")


def over_corpora(
    corpora: Mapping[str, object],
    tokenising: Tokenising,
    nothing: Statistics,
    measure: Callable[[Batch, Tensor], Statistics],
    options: Options,
    *,
    what: str,
    run: Callable[[], Mapping[str, object]],
    check: Callable[[str, Statistics, CorpusReport], None],
    spread_over: int = 1,
) -> dict[str, tuple[Statistics, CorpusReport]]:
    """The statistics of every corpus, and what became of its texts, over all processes.

    Args:
        corpora: {name: source}.
        nothing: the neutral element of the statistics.
        measure: of a batch, and the place of each document's first token that can count.
        what: is done to them, for the progress.
        run: gives what decides the result.
        check: raises CorpusError where nothing was found in a corpus.
        spread_over: how many processes have a part of the model.

    Raises:
        CorpusError, CheckpointError: a corpus or a checkpoint cannot be read; what was measured before is kept.
        CorpusError, ValueError: the processes do not do the same work.
    """
    if not isinstance(corpora, Mapping) or not corpora:
        raise CorpusError("no corpora were given: pass {language: texts or path}")
    shards = {name: shards_of(source) for name, source in corpora.items()}
    size = ChunkSize.of(options.batch_tokens)
    with ExitStack() as stack:
        team = stack.enter_context(processes(spread_over))
        parts = {f"corpus {name!r}": described(of_it) for name, of_it in shards.items()}
        decides = {"corpora": list(shards), **parts, "batch_tokens": options.batch_tokens}
        if team.several or options.checkpoint:
            decides |= run()
        if team.several:
            texts = {f"texts of {name!r}": extent(of_it) for name, of_it in shards.items()}
            apart = {"model": None} if team.one_model else {}  # each has a part of it
            check_same_call(team, {**decides, **apart, **texts, "checkpoint": bool(options.checkpoint)})
        folder = options.checkpoint if team.first or not team.one_model else None
        keeper = stack.enter_context(opened(folder, team, decides, options.every, type(nothing).load))
        restored = team.agreed([keeper.restore(number) or Standing(nothing) for number in range(len(corpora))])
        for (name, of_it), begun in zip(shards.items(), restored):
            check_finished(name, of_it, begun.place)
            if not begun.ended:
                with _of(name, options.checkpoint, restored):
                    check_first_row(of_it, tokenising.fields)
        source = chain.from_iterable(
            chunks(name, of_it, tokenising.fields, size, Share(team.rank, team.count, number), begun.place)
            for number, ((name, of_it), begun) in enumerate(zip(shards.items(), restored))
            if not begun.ended
        )
        read = stack.enter_context(closing(stream(source, tokenising, options.workers)))
        if spread_over == 1:  # a half here would be a whole batch elsewhere
            measure = WithinMemory(measure)
        shown, standings = options.progress and team.first, list(restored)
        for number, (name, begun) in enumerate(zip(corpora, restored)):
            if begun.ended:
                say(f"{name}: {begun.documents:,} documents, from {options.checkpoint}", shown)
                continue
            with (
                progress(_label(name, what, begun, team), "documents", shown) as bar,
                _of(name, options.checkpoint, standings),
            ):
                pace = Pace(bar)
                try:
                    for standing, measured, tokens, done in _steps(read, begun, measure, options.batch_tokens):
                        standings[number] = standing
                        keeper.measured(number, standing, measured)
                        pace.update(measured, tokens, done)
                finally:
                    keeper.write(number, standings[number])
            if team.count == 1:
                check(name, standings[number].total, standings[number].report)
        check_same_texts(team, {name: standing.place.finished for name, standing in zip(corpora, standings)})
        found = {name: _over_all(standing, team) for name, standing in zip(corpora, standings)}
    for name, (total, report) in found.items():
        check(name, total, report)
    return found


def _steps(
    read: Iterator[tuple[Chunk, Documents]],
    standing: Standing,
    measure: Callable[[Batch, Tensor], Statistics],
    batch_tokens: int,
) -> Iterator[tuple[Standing, int, int, float | None]]:
    """After every batch of a corpus: how far the pass has come, the batch's documents and tokens, the part of the corpus done."""
    going_on = standing.batches > 0
    for chunk, documents in read:
        resumed = chunk.place == standing.place
        if going_on and not resumed:
            raise changed(chunk.corpus, f"part {standing.place.shard + 1} after text {standing.place.row:,}")
        going_on = False
        if chunk.last:
            ended = replace(standing, place=chunk.place, digest="", batches=0, before=standing.report, ended=True)
            yield ended, 0, 0, 1.0
            return
        before, begun = (standing.before, standing.batches) if resumed else (standing.report, 0)
        if begun and chunk.digest != standing.digest:
            raise changed(chunk.corpus, f"{chunk.shard} after text {chunk.place.row:,}")
        report = before + documents.report
        standing = replace(
            standing, place=chunk.place, digest=chunk.digest, batches=begun, before=before, report=report
        )
        seen = 0
        for number, batch in enumerate(batches(documents, batch_tokens, window=len(documents.lengths))):
            seen += batch.tokens
            if number < begun:
                continue
            with naming(f"language {chunk.corpus!r}", batch, _where(chunk)):
                found = measure(batch, torch.from_numpy(documents.starts[batch.order]))
            count = len(batch.order)
            standing = replace(
                standing, total=standing.total + found, batches=number + 1, documents=standing.documents + count
            )
            yield standing, count, batch.tokens, _done(chunk, seen / len(documents.tokens))
        yield standing, 0, 0, _done(chunk, 1.0)


def _done(chunk: Chunk, fraction: float) -> float | None:
    """The part of the corpus that is done with this fraction of the chunk."""
    if chunk.span is None:
        return None
    before, after = chunk.span
    return before + fraction * (after - before)


def identity(model: nn.Module, tokenising: Tokenising) -> dict[str, object]:
    """What decides a pass's numbers, beside what is measured."""
    return {
        "dtype": str(model.dtype),
        "model": model_hash(model.base_model),  # all that is run
        "tokenizer": tokenizer_hash(tokenising.tokenizer),
        "max_length": tokenising.max_length,
        "pack": tokenising.pack,
    }


@contextmanager
def _of(corpus: str, checkpoint: str | Path | None, standings: Sequence[Standing]) -> Iterator[None]:
    """A CorpusError inside names the corpus, and where what was measured is."""
    try:
        yield
    except CorpusError as error:
        measured = checkpoint and any(standing.documents for standing in standings)
        kept = f"; what was measured before is in {checkpoint}, from where the same call goes on" if measured else ""
        raise CorpusError(f"corpus {corpus!r}: {error}{kept}") from error


def _label(name: str, what: str, standing: Standing, team: Processes) -> str:
    notes = [f"goes on after {standing.documents:,} documents"] if standing.documents else []
    notes += [f"process 1 of {team.count}"] if team.count > 1 else []
    return f"{name}: {what}" + (f" ({', '.join(notes)})" if notes else "")


def _where(chunk: Chunk) -> str:
    if chunk.place.shard == chunk.place.row == 0:
        return "of its corpus"
    return f"from text {chunk.place.row + 1:,} of {chunk.shard} on"


def _over_all(standing: Standing, team: Processes) -> tuple[Statistics, CorpusReport]:
    report = team.total(torch.tensor(astuple(standing.report))).tolist()
    return standing.total.over(team), CorpusReport(*report)
