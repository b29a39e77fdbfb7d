"""A pass over corpora: measures the statistics of every corpus, in all processes, and resumes from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Generic, NamedTuple

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.chunks import Chunk, ChunkSize, Share, check_finished, chunks, corpus_changed
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.corpus_types import Corpus, PairCorpus
from pymultiling.data.documents import tokenizer_hash
from pymultiling.data.empty_files import warn_of_empty_files
from pymultiling.data.shards import Shard, check_first_record, describe_shards, identify_part, shards_of
from pymultiling.data.streams import stream
from pymultiling.data.token_limit import TokenLimit
from pymultiling.data.tokenising import Documents, Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.models.length_scaling import LengthGroup, any_length
from pymultiling.passes.agreement import check_same_call, check_same_texts
from pymultiling.passes.batch_size import USUAL
from pymultiling.passes.checkpoints import CheckpointInterval, PassState, S, open_checkpoints
from pymultiling.passes.document_names import add_document_name
from pymultiling.passes.identity import model_hash
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.passes.pending import Launched, Pending, one_behind
from pymultiling.passes.remaining_time import RemainingTime
from pymultiling.runtime.processes import Processes, processes
from pymultiling.runtime.progress import Pace, print_line, show_progress

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How a pass is run. Of these, only `batch_tokens` and `tokens` affect the result.

    Attributes:
        batch_tokens: tokens in one forward, padding included; None: as many as fit in the free memory.
        workers: number of processes that tokenise while the model runs; 0: this process tokenises.
        checkpoint: folder for checkpoints; None: no checkpoints are written.
        checkpoint_seconds: seconds after which a state is written.
        checkpoint_documents: documents after which a state is written; None: only the seconds count.
        progress: whether to show progress on stderr.
        tokens: how many tokens are taken of each corpus, at most; None: all.
    """

    batch_tokens: int | None
    workers: int = 1
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    checkpoint_documents: int | None = None
    progress: bool = True
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {self.batch_tokens}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, or None for all, got {self.tokens}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, got {self.workers}")
        self.checkpoint_interval()  # checks its arguments

    def checkpoint_interval(self) -> CheckpointInterval:
        """Returns how often a state is written."""
        return CheckpointInterval(self.checkpoint_seconds, self.checkpoint_documents)


@dataclass(frozen=True)
class BatchSource:
    """Where the documents of a batch come from.

    Attributes:
        chunk: the chunk of all documents from which the batch was made.
        positions: (documents of the chunk,) int64, as described in `Tokenisation`. `positions[batch.order]` are those
            of the batch.
    """

    chunk: Chunk
    positions: Tensor


@dataclass(frozen=True)
class Job(Generic[S]):
    """What a pass does with the documents of corpora.

    Attributes:
        activity: a word for the progress, such as "measuring".
        tokenisation: how records become documents.
        empty_statistics: gives the statistics of a corpus before its first document. Its arguments are the corpus's
            name, and a path for a row file, or None if there are no checkpoints.
        measure: gives the statistics of a batch. They are added up after the next batch has been launched if they are
            `Pending`, and at once otherwise.
        identity: gives the settings that affect the result, without the corpora and `batch_tokens`.
        check: raises a CorpusError if nothing was measured. Its arguments are the corpus's name, statistics and report.
        content_label: what error messages call the content of a corpus, such as "language 'fr'".
        corpus_label: what error messages call the corpus that is read, such as "corpus 'fr'". It is "" if there is only
            one.
        spread_over: how many processes have a part of the model; 1: each process has the whole model.
        tokens_that_fit: gives the tokens of a forward if `batch_tokens` is None.
        halve_batches: whether a batch that does not fit in memory is measured in halves. False: `measure` halves its
            batches itself.
        group: which documents may share a batch, as `length_group` says of the model.
        unit: what the progress calls documents.
    """

    activity: str
    tokenisation: Tokenisation
    empty_statistics: Callable[[str, Path | None], S]
    measure: Callable[[Batch, BatchSource], S | Pending[S]]
    identity: Callable[[], Mapping[str, object]]
    check: Callable[[str, S, CorpusReport], None]
    tokens_that_fit: Callable[[], int] = lambda: USUAL
    content_label: Callable[[str], str] = "language {!r}".format
    corpus_label: Callable[[str], str] = "corpus {!r}".format
    spread_over: int = 1
    halve_batches: bool = True
    group: LengthGroup = any_length
    unit: str = "documents"


def run_pass(
    corpora: Mapping[str, Corpus | PairCorpus], job: Job[S], options: Options
) -> dict[str, tuple[S, CorpusReport]]:
    """Measures corpora.

    Args:
        corpora: {name: corpus}.
        job: what to do with their documents.
        options: how to run the pass.

    Returns:
        {name: (statistics, report)}, over all processes.

    Raises:
        CorpusError: a corpus cannot be read, or the processes read different texts. What was measured before is in the
            checkpoint.
        CheckpointError: the checkpoint cannot be used.
        ValueError: the processes made different calls.

    Warns:
        UserWarning: some of several files of a corpus have no texts.
    """
    if not isinstance(corpora, Mapping) or not corpora:
        raise CorpusError("no corpora were given: pass {language: texts or path}")
    fields = job.tokenisation.fields
    shards: dict[str, list[Shard]] = {name: shards_of(source) for name, source in corpora.items()}
    size = ChunkSize.of(options.batch_tokens or USUAL)  # not by memory: chunks decide which sums are added up
    with ExitStack() as stack:
        team = stack.enter_context(processes(job.spread_over))
        descriptions = {f"corpus {name!r}": describe_shards(corpus_shards) for name, corpus_shards in shards.items()}
        settings: dict[str, object] = {
            "corpora": list(shards),
            **descriptions,
            "batch_tokens": options.batch_tokens,
            "tokens": options.tokens,
        }
        if team.several or options.checkpoint:
            settings |= job.identity()
        if team.several:
            _check_same_call(team, settings, shards, options)
        folder = options.checkpoint if team.first or not team.one_model else None
        checkpoints = stack.enter_context(open_checkpoints(folder, team, settings, options.checkpoint_interval()))
        empty = [job.empty_statistics(name, checkpoints.row_file(number)) for number, name in enumerate(corpora)]
        restored = team.broadcast_first(
            [checkpoints.restore(number, total.load) or PassState(total) for number, total in enumerate(empty)]
        )
        # The tokens of a forward stay those of the checkpoint, because a state counts batches.
        batch_tokens = options.batch_tokens or _tokens_by_memory(team, job, restored)
        restored = [replace(state, batch_tokens=batch_tokens) for state in restored]
        # With a spread model, only the first process has restored a state. The others got its statistics, and add them
        # to their own empty ones, so that the rows are written into their own tables.
        if team.one_model:
            restored = [replace(state, total=total + state.total) for state, total in zip(restored, empty)]
        for (name, corpus_shards), state in zip(shards.items(), restored):
            check_finished(name, corpus_shards, state.start)
            if not state.ended:
                with _add_corpus_name(name, job, options.checkpoint, restored):
                    check_first_record(corpus_shards, fields)
        shares = {name: Share(team.rank, team.count, number) for number, name in enumerate(shards)}
        starts = {name: state.start for name, state in zip(shards, restored) if not state.ended}
        limit = TokenLimit(options.tokens, job.tokenisation, shards, shares) if options.tokens else None
        source = chain.from_iterable(
            chunks(name, shards[name], fields, size, shares[name], start)
            if limit is None
            else limit.until_full(chunks(name, shards[name], fields, size, start=start))
            for name, start in starts.items()
        )
        chunk_stream = stack.enter_context(closing(stream(source, job.tokenisation, options.workers)))
        documents_stream = chunk_stream if limit is None else limit.take(chunk_stream)
        measure: Callable[[Batch, BatchSource], S | Pending[S]] = job.measure
        # The processes of a spread model measure the same batch together, so none of them may halve it alone.
        if job.halve_batches and job.spread_over == 1:
            measure = SplitOnOutOfMemory(job.measure)
        show = options.progress and team.first
        states = list(restored)
        pace = Pace()
        remaining_time = RemainingTime(list(shards.values()), [state.ended for state in restored], options.tokens)
        for number, (name, first_state) in enumerate(zip(corpora, restored)):
            if first_state.ended:
                print_line(f"{name}: {first_state.documents:,} {job.unit}, from {options.checkpoint}", show)
                continue
            remaining_time.begin(number, resumes=first_state.documents > 0)
            with (
                show_progress(
                    _progress_label(name, f"{number + 1} of {len(corpora)}", job, first_state, team), job.unit, show
                ) as bar,
                _add_corpus_name(name, job, options.checkpoint, states),
            ):
                pace.begin(bar)
                try:
                    for step in _measure_corpus(documents_stream, first_state, measure, job, batch_tokens):
                        states[number] = step.state
                        checkpoints.update(number, step.state, step.documents)
                        left = remaining_time.end() if step.state.ended else remaining_time.update(step.done)
                        pace.update(bar, step.documents, step.tokens, left)
                finally:
                    # A corpus in which nothing was found may be another one the next time.
                    if states[number] is not first_state and states[number].documents:
                        checkpoints.write(number, states[number])
            # A single process knows here that it has measured nothing, before it measures the next corpus. Several
            # processes know it only from the totals below.
            if team.count == 1:
                job.check(name, states[number].total, states[number].report)
        check_same_texts(team, {name: state.start.finished for name, state in zip(corpora, states)})
        for (name, corpus_shards), state in zip(shards.items(), states):
            _warn_of_empty_shards(name, corpus_shards, state, team)
        results = {name: _over_processes(state, team) for name, state in zip(corpora, states)}
    if options.tokens and team.first:
        taken = {name: state.start.tokens for name, state in zip(corpora, states)}
        _log_taken(taken, options.tokens, job.tokenisation.max_length)
    for name, (total, report) in results.items():
        job.check(name, total, report)
    return results


def _tokens_by_memory(team: Processes, job: Job[S], restored: Sequence[PassState[S]]) -> int:
    """Returns the tokens of a forward where the free memory decides, the same number in all processes.

    It is that of a checkpoint, if one has it, and otherwise what the first process finds.
    """
    kept = next((state.batch_tokens for state in restored if state.batch_tokens), None)
    found = team.gather((kept, job.tokens_that_fit()))
    return next((tokens for tokens, _ in found if tokens), found[0][1])


def _check_same_call(
    team: Processes, settings: Mapping[str, object], shards: Mapping[str, Sequence[Shard]], options: Options
) -> None:
    texts = {f"texts of {name!r}": identify_part(corpus_shards) for name, corpus_shards in shards.items()}
    # Each process of a spread model has another part of it, so the hashes of the model differ.
    ignored = {"model": None} if team.one_model else {}
    check_same_call(team, {**settings, **ignored, **texts, "checkpoint": bool(options.checkpoint)})


class _Step(NamedTuple, Generic[S]):
    """The progress after a batch, or after the last batch of a chunk.

    Attributes:
        state: how far the pass has come in the corpus.
        documents: number of the batch's documents; 0 after a chunk.
        tokens: number of the batch's tokens; 0 after a chunk.
        done: fraction of the corpus that is done, 0 to 1, or None if it is unknown.
    """

    state: PassState[S]
    documents: int
    tokens: int
    done: float | None


def _measure_corpus(
    chunk_stream: Iterator[tuple[Chunk, Documents]],
    state: PassState[S],
    measure: Callable[[Batch, BatchSource], S | Pending[S]],
    job: Job[S],
    batch_tokens: int,
) -> Iterator[_Step[S]]:
    """Measures the rest of a corpus.

    Args:
        chunk_stream: the chunks and their documents. The next ones are the rest of this corpus.
        state: how far the pass has come in the corpus.
        measure: gives the statistics of a batch.
        job: what the pass does with the documents.
        batch_tokens: tokens of a forward.

    Yields:
        A step after every batch and after every chunk.

    Raises:
        CheckpointError: the corpus is not that of the checkpoint.
    """
    is_first = True
    for chunk, documents in chunk_stream:
        resumes = chunk.start == state.start
        if is_first and state.batches > 0 and not resumes:
            raise corpus_changed(chunk.corpus, f"part {state.start.shard + 1} after text {state.start.record:,}")
        is_first = False
        if chunk.last:
            ended = replace(state, start=chunk.start, digest="", batches=0, report_before=state.report, ended=True)
            yield _Step(ended, 0, 0, 1.0)
            return
        report_before, measured_batches = (state.report_before, state.batches) if resumes else (state.report, 0)
        if measured_batches and chunk.digest != state.digest:
            raise corpus_changed(chunk.corpus, f"{chunk.shard} after text {chunk.start.record:,}")
        state = replace(
            state,
            start=chunk.start,
            digest=chunk.digest,
            batches=measured_batches,
            report_before=report_before,
            report=report_before + documents.report,
        )
        for batch in one_behind(_launch_batches(chunk, documents, measured_batches, measure, job, batch_tokens)):
            state = replace(
                state,
                total=state.total + batch.finish(),
                batches=batch.number + 1,
                documents=state.documents + batch.documents,
            )
            done = _fraction_done(chunk, batch.tokens_done / len(documents.tokens))
            yield _Step(state, batch.documents, batch.tokens, done)
        yield _Step(state, 0, 0, _fraction_done(chunk, 1.0))


def _launch_batches(
    chunk: Chunk,
    documents: Documents,
    measured_batches: int,
    measure: Callable[[Batch, BatchSource], S | Pending[S]],
    job: Job[S],
    batch_tokens: int,
) -> Iterator[Launched[S]]:
    """Launches the batches of a chunk, except those that were measured before."""
    tokens_done = 0
    source = BatchSource(chunk, torch.from_numpy(documents.positions))
    batches = make_batches(documents, batch_tokens, window=len(documents.lengths), group=job.group)
    for number, batch in enumerate(batches):
        tokens_done += batch.tokens
        if number < measured_batches:
            continue
        is_sentences = job.tokenisation.form == "sentences"
        indices = documents.positions[batch.order].tolist() if is_sentences else batch.order
        add_names = partial(add_document_name, job.content_label(chunk.corpus), indices, _describe_part(chunk))
        with add_names():
            statistics = measure(batch, source)
        yield Launched(statistics, number, len(batch.order), batch.tokens, tokens_done, add_names)


def _fraction_done(chunk: Chunk, chunk_fraction: float) -> float | None:
    """Returns the fraction of the corpus that is done when this fraction of the chunk is."""
    if chunk.span is None:
        return None
    before, after = chunk.span
    return before + chunk_fraction * (after - before)


def identify_inputs(model: nn.Module, tokenisation: Tokenisation) -> dict[str, object]:
    """Returns what identifies the model and the tokenisation, for `Job.identity`.

    Args:
        model: the module that the pass runs, such as a model without its head. Its weights must be in memory.
        tokenisation: how records become documents.

    Returns:
        {name: text, number or None}. A checkpoint is resumed only if all values are the same.
    """
    return {
        "dtype": str(model.dtype),
        "model": model_hash(model),
        "tokenizer": tokenizer_hash(tokenisation.tokenizer),
        "max_length": tokenisation.max_length,
        "pack": tokenisation.pack,
        "form": tokenisation.form,
        "chat_template": None if tokenisation.chat is None else tokenisation.chat.hash,
    }


@contextmanager
def _add_corpus_name(
    corpus: str, job: Job[S], checkpoint: str | Path | None, states: Sequence[PassState[S]]
) -> Iterator[None]:
    """Adds the name of the corpus and the path of the checkpoint to a CorpusError of the block."""
    try:
        yield
    except CorpusError as error:
        label = job.corpus_label(corpus)
        message = f"{label}: {error}" if label else str(error)
        if checkpoint and any(state.documents for state in states):
            message += f"; what was measured before is in {checkpoint}: the same call resumes from there"
        raise CorpusError(message) from error


def _warn_of_empty_shards(name: str, shards: Sequence[Shard], state: PassState[S], team: Processes) -> None:
    """Warns in the first process of shards in which no process has found a record. All processes must call it."""
    if len(shards) == 1:
        return
    of_processes = team.gather([number for number, (_, digest) in state.start.finished.items() if not digest])
    if team.first:
        empty = sorted(set(chain.from_iterable(of_processes)))
        warn_of_empty_files([shards[number].name for number in empty], len(shards), f"{name}: ")


def _progress_label(name: str, place: str, job: Job[S], state: PassState[S], team: Processes) -> str:
    """Returns the text in front of a corpus's progress bar; `place` is the corpus's number, such as "2 of 8"."""
    notes = [] if place == "1 of 1" else [place]
    notes += [f"resumes after {state.documents:,} {job.unit}"] if state.documents else []
    notes += [f"process 1 of {team.count}"] if team.count > 1 else []
    return f"{name}: {job.activity}" + (f" ({', '.join(notes)})" if notes else "")


def _describe_part(chunk: Chunk) -> str:
    """Returns the part of a corpus in which the documents of a chunk are counted."""
    if chunk.start.shard == chunk.start.record == 0:
        return "of its corpus"
    return f"from text {chunk.start.record + 1:,} of {chunk.shard} on"


def _log_taken(taken: Mapping[str, int], limit: int, longest: int) -> None:
    """Logs how many tokens were taken of the corpora that may have had one more document, of `longest` tokens."""
    for name, tokens in taken.items():
        if limit - tokens < longest:
            _logger.info(
                "%s: %s tokens were taken, of at most %s (tokens, --tokens)", name, f"{tokens:,}", f"{limit:,}"
            )


def _over_processes(state: PassState[S], team: Processes) -> tuple[S, CorpusReport]:
    """Returns the statistics and the report of a corpus, over all processes."""
    report = team.total(torch.tensor(astuple(state.report))).tolist()
    return state.total.over(team), CorpusReport(*report)
