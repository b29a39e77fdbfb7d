"""A pass over corpora: measures the statistics of every corpus, in all processes, and resumes from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path

import torch

from pymultiling.data.batches import Batch
from pymultiling.data.chunks import ChunkSize, Share, check_finished, chunks
from pymultiling.data.corpora import CorpusReport
from pymultiling.data.corpus_types import Corpus, PairCorpus
from pymultiling.data.empty_files import warn_of_empty_files
from pymultiling.data.shards import Shard, check_first_record, describe_shards, identify_part, shards_of
from pymultiling.data.streams import stream
from pymultiling.data.token_limit import TokenLimit
from pymultiling.errors import CorpusError
from pymultiling.passes.agreement import check_same_call, check_same_texts
from pymultiling.passes.batch_size import USUAL
from pymultiling.passes.checkpoints import PassState, S, open_checkpoints
from pymultiling.passes.job import BatchSource, Job, Options
from pymultiling.passes.measure_corpus import measure_corpus
from pymultiling.passes.memory import SplitOnOutOfMemory
from pymultiling.passes.pending import Pending
from pymultiling.passes.remaining_time import RemainingTime
from pymultiling.runtime.processes import Processes, processes
from pymultiling.runtime.progress import Pace, print_line, show_progress

_logger = logging.getLogger(__name__)


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
                    for step in measure_corpus(documents_stream, first_state, measure, job, batch_tokens):
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
