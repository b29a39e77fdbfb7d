"""Activation counts of FFN neurons for each language, the input of LAPE, PMI and ternary neurons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args, overload

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.chat import chat_frame
from pymultiling.data.corpora import NOTHING_READ, CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Form, Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.models.length_scaling import LengthGroup, length_group
from pymultiling.models.unwrap import unwrap
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.passes.batch_size import tokens_that_fit
from pymultiling.passes.corpus_pass import run_pass
from pymultiling.passes.document_names import add_document_name
from pymultiling.passes.job import BatchSource, Job, Options, identify_inputs
from pymultiling.passes.pending import Pending
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.probes.verification.entry import unverified
from pymultiling.runtime.progress import show_progress
from pymultiling.runtime.short_repr import describe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pymultiling.data.corpus_types import Corpus, PairCorpus

Positions: TypeAlias = Literal["all", "last", "response"]
POSITIONS: tuple[Positions, ...] = get_args(Positions)
# The last token of a text is its own, not one that the tokenizer puts after it.
FORMS: dict[Positions, Form] = {"all": "texts", "last": "prompts", "response": "pairs"}


class Activations(dict[str, ActivationStatistics]):
    """The result of `activations`: {language: ActivationStatistics}.

    Attributes:
        corpora: {language: CorpusReport}, how many texts were read, left out or cut.
    """

    def __init__(self) -> None:
        super().__init__()
        self.corpora: dict[str, CorpusReport] = {}

    def __repr__(self) -> str:
        return f"Activations({describe(self)})"


@overload
def activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Mapping[str, Corpus],
    *,
    positions: Literal["all", "last"] = "all",
    max_length: int = 512,
    batch_tokens: int | None = 4096,
    pack: int | None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> Activations: ...
@overload
def activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Mapping[str, PairCorpus],
    *,
    positions: Literal["response"],
    max_length: int = 512,
    batch_tokens: int | None = 4096,
    pack: None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> Activations: ...
def activations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpora: Mapping[str, Corpus] | Mapping[str, PairCorpus],
    *,
    positions: Positions = "all",
    max_length: int = 512,
    batch_tokens: int | None = 4096,
    pack: int | None = None,
    chat_template: bool = False,
    tokens: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
    verify: bool = True,
) -> Activations:
    """Counts for each language in how many token positions every FFN neuron is active.

        active[l, n] = #{t : act(gate[t, n]) > 0} in layer l    (act(up) in an FFN without a gate)

    The counts are exact: they come from the values that the model itself computes, in its own dtype. Memory does not
    grow with the corpora. `lape` and `ternary` select neurons from the result.

    Under torchrun, or wherever torch.distributed is initialised, all processes must make this call. Each counts a part
    of the texts, and all return the counts of all texts.

    Source: arXiv 2402.16438 for "all", the published code of arXiv 2403.09073 for "last", and arXiv 2505.21505 for
    "response".

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: the model's tokenizer.
        corpora: {language: corpus}, as `detect` takes them. For positions="response" a corpus has pairs: an iterable of
            (prompt, response) or of records with the fields "prompt" and "response", or a path to such records (.jsonl,
            .parquet).
        positions: the token positions that count. "all": every token of a document. "last": the last token only; of a
            document that is cut, the last token left. "response": the tokens of the response, that is the counts of
            prompt and response together minus those of the prompt, from one forward. The response starts where the
            tokens of prompt and response first differ from those of the prompt alone.
        max_length: as in `detect`.
        batch_tokens: as in `detect`.
        pack: as in `detect`; must be None for positions="response".
        chat_template: as in `detect`: only the text's own tokens count. "last" is then the last token of the message,
            and not the token before the answer, which belongs to the template. For "response" the prompt is the user's
            message, and the response follows as the model's answer.
        tokens: as in `detect`. For "response" those of the responses count; for "last" all of a document.
        workers: as in `detect`.
        checkpoint: as in `detect`.
        checkpoint_seconds: as in `detect`.
        checkpoint_documents: as in `detect`.
        progress: show progress on stderr.
        verify: as in `importance`.

    Returns:
        {language: ActivationStatistics}, with the reports on the corpora in the attribute `corpora`.

    Raises:
        CorpusError: a corpus cannot be read or has no positions to count. Counts made before stay in the checkpoint.
        CheckpointError: as `detect`.
        UnsupportedModel: as `importance`; or the FFN's activation function is not one that is positive exactly where
            its input is.
        NonFiniteActivations: as `importance`; the message names language and document.
        ValueError: unknown positions; pack with positions="response"; an argument is out of its range; or as `detect`
            for `chat_template`.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and pack is not None:
        raise ValueError("prompts and responses are not packed: leave out pack")
    model = unwrap(model)
    length = document_length(model, max_length, batch_tokens, pack)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress, tokens)
    with unverified(not verify):
        probe = ActivationProbe(model)

    def measure(batch: Batch, source: BatchSource) -> Pending[ActivationStatistics]:
        return _count_batch(probe, batch, source.positions[batch.order], positions)

    def check(language: str, total: ActivationStatistics, report: CorpusReport) -> None:
        if total.tokens == 0:
            raise CorpusError(f"language {language!r} has no positions to count: {str(report) or NOTHING_READ}")

    chat = chat_frame(tokenizer) if chat_template else None
    tokenisation = Tokenisation(tokenizer, length, pack, FORMS[positions], chat)
    job = Job(
        activity="counting",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: _zero_counts(probe),
        measure=measure,
        identity=lambda: {
            "measure": f"activations at positions {positions}",
            **identify_inputs(probe.decoder.base_model, tokenisation),
        },
        check=check,
        tokens_that_fit=lambda: tokens_that_fit(probe.decoder),
        spread_over=probe.decoder.tensor_parallel.count,
        group=length_group(model),
    )
    counts = Activations()
    for language, (total, report) in run_pass(corpora, job, options).items():
        counts[language], counts.corpora[language] = total, report
    return counts


def count_activations(
    probe: ActivationProbe,
    documents: Iterable[tuple[list[int], int]],
    positions: Positions,
    batch_tokens: int,
    name: str,
    progress: bool,
    kind: str = "language",
) -> ActivationStatistics:
    """Counts activations in documents that are tokenised already.

    Args:
        probe: the probe of the model.
        documents: the tokens of each document, and the index of the first token of its response.
        positions: as in `activations`.
        batch_tokens: the largest number of tokens in one forward, padding included.
        name: the name of the documents, for messages.
        progress: show progress on stderr.
        kind: what `name` is the name of, for messages.

    Returns:
        The counts over all documents, on the CPU.
    """
    total = _zero_counts(probe)
    with show_progress(f"{name}: counting", "documents", progress) as bar:
        for batch, starts in _batches(documents, batch_tokens, length_group(probe.decoder.model)):
            with add_document_name(f"{kind} {name!r}", batch.order):
                total += _count_batch(probe, batch, starts, positions).finish()
            bar.update(len(batch.order))
    return ActivationStatistics(total.active.cpu(), total.tokens, total.widths)


def _zero_counts(probe: ActivationProbe) -> ActivationStatistics:
    shape = len(probe.decoder.layers), probe.decoder.widths()["ffn"]
    return ActivationStatistics(torch.zeros(shape, dtype=torch.int64), 0, probe.decoder.layer_widths())


def _count_batch(
    probe: ActivationProbe, batch: Batch, starts: Tensor, positions: Positions
) -> Pending[ActivationStatistics]:
    counted = _counted_positions(batch, starts, positions)
    active, require_finite = probe.launch(batch.input_ids, batch.attention_mask, counted)
    statistics = ActivationStatistics(active, int(counted.sum()), probe.decoder.layer_widths())
    return Pending.checked(statistics, len(batch.order), require_finite)


def _batches(
    documents: Iterable[tuple[list[int], int]], batch_tokens: int, group: LengthGroup
) -> Iterator[tuple[Batch, Tensor]]:
    """Yields batches, each with (documents,) int64, the index of the first token that can count in each document."""
    starts: dict[int, int] = {}  # {number of a document that was read and is in no batch yet: index of the token}

    def token_lists() -> Iterator[list[int]]:
        for number, (tokens, start) in enumerate(documents):
            starts[number] = start
            yield tokens

    for batch in make_batches(token_lists(), batch_tokens, group=group):
        yield batch, torch.tensor([starts.pop(number) for number in batch.order])


def _counted_positions(batch: Batch, starts: Tensor, positions: Positions) -> Tensor:
    """Returns a mask of the positions that count, (documents, length) bool. Documents are padded on the right."""
    if positions == "last":
        return torch.arange(batch.input_ids.shape[1]) == batch.attention_mask.sum(1, keepdim=True) - 1
    return batch.counted(starts)
