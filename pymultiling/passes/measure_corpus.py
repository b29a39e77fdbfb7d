"""Measures one corpus of a pass: its chunks, batch by batch, from where a checkpoint ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Generic, NamedTuple

import torch

from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.chunks import Chunk, corpus_changed
from pymultiling.data.tokenising import Documents
from pymultiling.passes.checkpoints import PassState, S
from pymultiling.passes.document_names import add_document_name
from pymultiling.passes.job import BatchSource, Job
from pymultiling.passes.pending import Launched, Pending, one_behind


class Step(NamedTuple, Generic[S]):
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


def measure_corpus(
    chunk_stream: Iterator[tuple[Chunk, Documents]],
    state: PassState[S],
    measure: Callable[[Batch, BatchSource], S | Pending[S]],
    job: Job[S],
    batch_tokens: int,
) -> Iterator[Step[S]]:
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
            yield Step(ended, 0, 0, 1.0)
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
            yield Step(state, batch.documents, batch.tokens, done)
        yield Step(state, 0, 0, _fraction_done(chunk, 1.0))


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


def _describe_part(chunk: Chunk) -> str:
    """Returns the part of a corpus in which the documents of a chunk are counted."""
    if chunk.start.shard == chunk.start.record == 0:
        return "of its corpus"
    return f"from text {chunk.start.record + 1:,} of {chunk.shard} on"
