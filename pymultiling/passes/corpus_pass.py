"""A pass over corpora: statistics of every corpus, batch by batch, in as many processes as there are, from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.chunks import Chunk, ChunkSize, Share, changed, check_finished, chunks
from pymultiling.data.corpora import Corpus, CorpusReport, PairCorpus
from pymultiling.data.documents import tokenizer_hash
from pymultiling.data.shards import check_first_row, described, extent, shards_of, sizes
from pymultiling.data.streams import stream
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.passes.agreement import check_same_call, check_same_texts
from pymultiling.passes.checkpoints import CheckpointInterval, PassState, opened
from pymultiling.passes.document_names import add_document_name
from pymultiling.passes.identity import model_hash
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.runtime.processes import Processes, processes
from pymultiling.runtime.progress import Pace, say, show_progress


class Statistics(Protocol):
    """What a pass sums up."""

    def __add__(self, other): ...
    def over(self, processes: Processes): ...
    def save(self, path: Path): ...
    def load(self, path: Path): ...


@dataclass(frozen=True)
class Options:
    """How a pass is run; none of it but `batch_tokens` decides what comes out.

    Attributes:
        batch_tokens: tokens in one forward, padding included.
        workers: processes that tokenise beside the forward.
        checkpoint: a folder for the state; None: none is kept.
        checkpoint_seconds, checkpoint_documents: how often the state is written.
        progress: show it on stderr.
    """

    batch_tokens: int
    workers: int = 1
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_documents: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        self.every()

    def every(self) -> CheckpointInterval:
        return CheckpointInterval(self.checkpoint_seconds, self.checkpoint_documents)


@dataclass(frozen=True)
class BatchSource:
    """Where the documents of a batch come from.

    Attributes:
        chunk: the rows that they were made of.
        positions: int64, of every document of the chunk, as `Tokenisation` says; `positions[batch.order]` are the batch's.
    """

    chunk: Chunk
    positions: Tensor


@dataclass(frozen=True)
class Job:
    """What a pass does with the documents of corpora.

    Attributes:
        doing: a word for the progress, such as "measuring"; unit: what documents are called there.
        tokenisation: how texts become documents.
        nothing: gives a corpus's statistics before its first document; takes its name, and a path for a file of its own
            beside its state, None where no state is kept.
        measure: gives a batch's statistics.
        decides: gives what decides the result, beside the corpora and `batch_tokens`.
        check: raises CorpusError where nothing was found in a corpus; takes its name, statistics and report.
        named: what is measured as messages call it, such as "language 'fr'".
        corpus_label: what is read as messages call it, such as "corpus 'fr'"; "" where there is one only, and nothing to tell apart.
        spread_over: how many processes have a part of the model.
        halves: a batch that does not fit in memory is measured in halves here; False: `measure` sees to that.
    """

    activity: str
    tokenisation: Tokenisation
    empty_statistics: Callable[[str, Path | None], Statistics]
    measure: Callable[[Batch, BatchSource], Statistics]
    identity: Callable[[], Mapping[str, object]]
    check: Callable[[str, Statistics, CorpusReport], None]
    content_label: Callable[[str], str] = "language {!r}".format
    corpus_label: Callable[[str], str] = "corpus {!r}".format
    spread_over: int = 1
    halve_batches: bool = True
    unit: str = "documents"


def run_pass(corpora: Mapping[str, object], job: Job, options: Options) -> dict[str, tuple[Statistics, CorpusReport]]:
    """The statistics of every corpus, {name: source}, and what became of its texts, over all processes.

    Raises:
        CorpusError, CheckpointError: a corpus or a checkpoint cannot be read; what was measured before is kept.
        CorpusError, ValueError: the processes do not do the same job.
    """
    if not isinstance(corpora, Mapping) or not corpora:
        raise CorpusError("no corpora were given: pass {language: texts or path}")
    fields = job.tokenisation.fields
    shards = {name: shards_of(source) for name, source in corpora.items()}
    size = ChunkSize.of(options.batch_tokens)
    with ExitStack() as stack:
        team = stack.enter_context(processes(job.spread_over))
        parts = {f"corpus {name!r}": described(of_corpus) for name, of_corpus in shards.items()}
        decides = {"corpora": list(shards), **parts, "batch_tokens": options.batch_tokens}
        if team.several or options.checkpoint:
            decides |= job.identity()
        if team.several:
            texts = {f"texts of {name!r}": extent(of_corpus) for name, of_corpus in shards.items()}
            apart = {"model": None} if team.one_model else {}  # each has a part of it
            check_same_call(team, {**decides, **apart, **texts, "checkpoint": bool(options.checkpoint)})
        folder = options.checkpoint if team.first or not team.one_model else None
        keeper = stack.enter_context(opened(folder, team, decides, options.every()))
        nothing = [job.empty_statistics(name, keeper.row_file(number)) for number, name in enumerate(corpora)]
        restored = team.agreed(
            [keeper.restore(number, empty.load) or PassState(empty) for number, empty in enumerate(nothing)]
        )
        if team.one_model:  # what the first process restored goes on here, where its tables are not
            restored = [replace(begun, total=empty + begun.total) for begun, empty in zip(restored, nothing)]
        for (name, of_corpus), begun in zip(shards.items(), restored):
            check_finished(name, of_corpus, begun.place)
            if not begun.ended:
                with _of(name, job, options.checkpoint, restored):
                    check_first_row(of_corpus, fields)
        source = chain.from_iterable(
            chunks(name, of_corpus, fields, size, Share(team.rank, team.count, number), begun.place)
            for number, ((name, of_corpus), begun) in enumerate(zip(shards.items(), restored))
            if not begun.ended
        )
        read = stack.enter_context(closing(stream(source, job.tokenisation, options.workers)))
        # A half here would be a whole batch in another process that has a part of the model.
        measure = SplitOnOutOfMemory(job.measure) if job.halve_batches and job.spread_over == 1 else job.measure
        shown, standings = options.progress and team.first, list(restored)
        pace, spans = Pace(), _spans(list(shards.values()))
        for number, (name, begun) in enumerate(zip(corpora, restored)):
            if begun.ended:
                say(f"{name}: {begun.documents:,} {job.unit}, from {options.checkpoint}", shown)
                continue
            with (
                show_progress(_label(name, job, begun, team), job.unit, shown) as bar,
                _of(name, job, options.checkpoint, standings),
            ):
                try:
                    for standing, documents, tokens, done in _steps(read, begun, measure, job, options.batch_tokens):
                        standings[number] = standing
                        keeper.measured(number, standing, documents)
                        pace.update(bar, documents, tokens, None if done is None else spans[number](done))
                finally:
                    keeper.write(number, standings[number])
            if team.count == 1:
                job.check(name, standings[number].total, standings[number].report)
        check_same_texts(team, {name: standing.place.finished for name, standing in zip(corpora, standings)})
        found = {name: _over_all(standing, team) for name, standing in zip(corpora, standings)}
    for name, (total, report) in found.items():
        job.check(name, total, report)
    return found


def _steps(
    read: Iterator[tuple[Chunk, Documents]],
    standing: PassState,
    measure: Callable[[Batch, BatchSource], Statistics],
    job: Job,
    batch_tokens: int,
) -> Iterator[tuple[PassState, int, int, float | None]]:
    """After every batch of a corpus: how far the pass has come, the batch's documents and tokens, the part of the corpus done."""
    going_on = standing.batches > 0
    for chunk, documents in read:
        resumed = chunk.start == standing.place
        if going_on and not resumed:
            raise changed(chunk.corpus, f"part {standing.place.shard + 1} after text {standing.place.record:,}")
        going_on = False
        if chunk.last:
            ended = replace(standing, place=chunk.start, digest="", batches=0, before=standing.report, ended=True)
            yield ended, 0, 0, 1.0
            return
        before, begun = (standing.before, standing.batches) if resumed else (standing.report, 0)
        if begun and chunk.digest != standing.digest:
            raise changed(chunk.corpus, f"{chunk.shard} after text {chunk.start.record:,}")
        report = before + documents.report
        standing = replace(
            standing, place=chunk.start, digest=chunk.digest, batches=begun, before=before, report=report
        )
        seen = 0
        for number, batch in enumerate(make_batches(documents, batch_tokens, window=len(documents.lengths))):
            seen += batch.tokens
            if number < begun:
                continue
            numbers = documents.places[batch.order] if job.tokenisation.form == "sentences" else batch.order
            with add_document_name(job.content_label(chunk.corpus), numbers, _where(chunk)):
                found = measure(batch, BatchSource(chunk, torch.from_numpy(documents.places)))
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


def _spans(corpora: list[list]) -> list[Callable[[float], float]]:
    """For every corpus: the part of the whole job that is done when so much of it is, by size where all sizes are known."""
    weights = sizes(corpora)
    ends = list(accumulate(weights))
    return [
        lambda done, end=end, weight=weight: (end - weight + done * weight) / ends[-1]
        for end, weight in zip(ends, weights)
    ]


def identify_inputs(model: nn.Module, tokenisation: Tokenisation) -> dict[str, object]:
    """What decides a pass's numbers, beside what is measured; `model`: all that is run."""
    return {
        "dtype": str(model.dtype),
        "model": model_hash(model),
        "tokenizer": tokenizer_hash(tokenisation.tokenizer),
        "max_length": tokenisation.max_length,
        "pack": tokenisation.pack,
    }


@contextmanager
def _of(corpus: str, job: Job, checkpoint: str | Path | None, standings: Sequence[PassState]) -> Iterator[None]:
    """A CorpusError inside names the corpus, and where what was measured is."""
    try:
        yield
    except CorpusError as error:
        measured = checkpoint and any(standing.documents for standing in standings)
        kept = f"; what was measured before is in {checkpoint}, from where the same call goes on" if measured else ""
        read = job.corpus_label(corpus)
        raise CorpusError(f"{read}{': ' if read else ''}{error}{kept}") from error


def _label(name: str, job: Job, standing: PassState, team: Processes) -> str:
    notes = [f"goes on after {standing.documents:,} {job.unit}"] if standing.documents else []
    notes += [f"process 1 of {team.count}"] if team.count > 1 else []
    return f"{name}: {job.activity}" + (f" ({', '.join(notes)})" if notes else "")


def _where(chunk: Chunk) -> str:
    if chunk.start.shard == chunk.start.record == 0:
        return "of its corpus"
    return f"from text {chunk.start.record + 1:,} of {chunk.shard} on"


def _over_all(standing: PassState, team: Processes) -> tuple[Statistics, CorpusReport]:
    report = team.total(torch.tensor(astuple(standing.report))).tolist()
    return standing.total.over(team), CorpusReport(*report)
