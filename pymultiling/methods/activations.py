"""How often every FFN neuron is active for a language: what LAPE, PMI and the three kinds of neuron rest on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pymultiling.data.batches import Batch, make_batches
from pymultiling.data.corpora import NOTHING_READ, CorpusReport
from pymultiling.data.documents import document_length
from pymultiling.data.tokenising import Tokenisation
from pymultiling.errors import CorpusError
from pymultiling.models.decoder import model_device
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.passes.corpus_pass import BatchSource, Job, Options, identify_inputs, run_pass
from pymultiling.passes.document_names import add_document_name
from pymultiling.probes.activation_counts import ActivationProbe
from pymultiling.runtime.progress import show_progress

POSITIONS = ("all", "last", "response")


class Activations(dict[str, ActivationStatistics]):
    """{language: ActivationStatistics}.

    Attributes:
        corpora: {language: CorpusReport}, what became of its texts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.corpora: dict[str, CorpusReport] = {}


def activations(
    model: nn.Module,
    tokenizer,
    corpora: Mapping[str, object],
    *,
    positions: str = "all",
    max_length: int = 512,
    batch_tokens: int = 4096,
    pack: int | None = None,
    workers: int = 1,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_documents: int | None = None,
    progress: bool = True,
) -> Activations:
    """Counts in how many positions every FFN neuron is active, for each language.

        active[l, n] = #{t : act(gate[t, n]) > 0} in layer l    (act(up) in a plain FFN)

    Exactly, from the values that the model itself computes, in its own dtype.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        corpora: {language: texts}, as `detect` takes them; for positions="response" pairs: an iterable of
            (prompt, response), or of rows with these two fields, or a path to such rows (.jsonl, .parquet).
        positions: "all" of a document's tokens; the "last" one alone, as the published code of arXiv 2403.09073 counts a
            prompt (of a document that is cut, the last one that is left); those of the "response", as arXiv 2505.21505: what counts for prompt and response less what counts for
            the prompt, from one forward. A response begins where the tokens of both first differ from those of the prompt.
        max_length, batch_tokens, pack, progress: as in `detect`; pairs are not packed.
        workers, checkpoint, checkpoint_seconds, checkpoint_documents: as in `detect`, and so are several processes.

    Returns:
        {language: ActivationStatistics}, with `corpora` as an attribute. Memory does not grow with the corpora.

    Raises:
        CorpusError: a corpus cannot be read, or has no positions to count; what was counted stays in the checkpoint.
        CheckpointError: as `detect`.
        UnsupportedModel, NonFiniteActivations, ValueError: as `importance`.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and pack is not None:
        raise ValueError("prompts and responses are not packed: leave out pack")
    length = document_length(model, max_length, batch_tokens, pack)
    options = Options(batch_tokens, workers, checkpoint, checkpoint_seconds, checkpoint_documents, progress)
    probe = ActivationProbe(model)

    def measure(batch: Batch, source: BatchSource) -> ActivationStatistics:
        return _measured(probe, batch, source.positions[batch.order], positions)

    def check(language: str, total: ActivationStatistics, report: CorpusReport) -> None:
        if total.tokens == 0:
            raise CorpusError(f"language {language!r} has no positions to count: {str(report) or NOTHING_READ}")

    tokenisation = Tokenisation(tokenizer, length, pack, form="pairs" if positions == "response" else "texts")
    job = Job(
        activity="counting",
        tokenisation=tokenisation,
        empty_statistics=lambda *_: _nothing(probe),
        measure=measure,
        identity=lambda: {
            "measure": f"activations at positions {positions}",
            **identify_inputs(model.base_model, tokenisation),
        },
        check=check,
        spread_over=probe.decoder.tensor_parallel.count,
    )
    counted = run_pass(corpora, job, options)
    found = Activations()
    for language, (total, found.corpora[language]) in counted.items():
        found[language] = total
    return found


def count_activations(
    probe: ActivationProbe,
    documents: Iterable[tuple[list[int], int]],
    positions: str,
    batch_tokens: int,
    name: str,
    progress: bool,
    kind: str = "language",
) -> ActivationStatistics:
    """Of documents' tokens, each with the place of its first one that is the response's; name and kind are for messages."""
    total = _nothing(probe)
    with show_progress(f"{name}: counting", "documents", progress) as bar:
        for batch, starts in _batches(documents, batch_tokens):
            with add_document_name(f"{kind} {name!r}", batch.order):
                total += _measured(probe, batch, starts, positions)
            bar.update(len(batch.order))
    return total


def _nothing(probe: ActivationProbe) -> ActivationStatistics:
    shape = len(probe.decoder.layers), probe.decoder.widths()["ffn"]
    return ActivationStatistics(torch.zeros(shape, dtype=torch.int64), 0)


def _measured(probe: ActivationProbe, batch: Batch, starts: Tensor, positions: str) -> ActivationStatistics:
    counted, device = _counted(batch, starts, positions), model_device(probe.decoder.model)
    active = probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device), counted.to(device))
    return ActivationStatistics(active, int(counted.sum()))


def _batches(documents: Iterable[tuple[list[int], int]], batch_tokens: int) -> Iterator[tuple[Batch, Tensor]]:
    """Batches, with the first token of every row that can count."""
    starts: dict[int, int] = {}  # of documents that were read and are in no batch yet

    def tokens() -> Iterator[list[int]]:
        for number, (document, start) in enumerate(documents):
            starts[number] = start
            yield document

    for batch in make_batches(tokens(), batch_tokens):
        yield batch, torch.tensor([starts.pop(number) for number in batch.order])


def _counted(batch: Batch, starts: Tensor, positions: str) -> Tensor:
    """(documents, length) bool; documents are padded on the right."""
    place = torch.arange(batch.input_ids.shape[1])
    if positions == "last":
        return place == batch.attention_mask.sum(1, keepdim=True) - 1
    return batch.attention_mask.bool() & (place >= starts[:, None])
