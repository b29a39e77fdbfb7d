"""How often every FFN neuron is active for a language: what LAPE, PMI and the three kinds of neuron rest on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from pymultiling.activation_statistics import ActivationStatistics
from pymultiling.data.batches import Batch, batches
from pymultiling.data.corpora import CorpusReport, read_pairs, read_texts
from pymultiling.data.documents import document_length, tokenise, tokenise_pairs
from pymultiling.errors import CorpusError
from pymultiling.methods.naming import naming
from pymultiling.models.counting import ActivationProbe
from pymultiling.models.decoder import model_device
from pymultiling.progress import progress as show_progress

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
    progress: bool = True,
) -> Activations:
    """Counts in how many positions every FFN neuron is active, for each language.

        active[l, n] = #{t : act(gate[t, n]) > 0} in layer l    (act(up) in a plain FFN)

    Exactly, from the values that the model itself computes, in its own dtype.

    Args:
        model: a Hugging Face decoder of a supported family.
        tokenizer: its tokenizer.
        corpora: {language: texts}, as `detect` takes them; for positions="response" pairs: an iterable of
            (prompt, response), or of rows with these two fields, or a path to such rows (.jsonl, .jsonl.gz, .parquet).
        positions: "all" of a document's tokens; the "last" one alone, as the published code of arXiv 2403.09073 counts a
            prompt (of a document that is cut, the last one that is left); those of the "response", as arXiv 2505.21505: what counts for prompt and response less what counts for
            the prompt, from one forward. A response begins where the tokens of both first differ from those of the prompt.
        max_length, batch_tokens, pack, progress: as in `detect`; pairs are not packed.

    Returns:
        {language: ActivationStatistics}, with `corpora` as an attribute. Memory does not grow with the corpora.

    Raises:
        CorpusError: a corpus cannot be read, or has no positions to count.
        UnsupportedModel, NonFiniteActivations, ValueError: as `importance`.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if positions == "response" and pack is not None:
        raise ValueError("prompts and responses are not packed: leave out pack")
    if not corpora:
        raise CorpusError("no corpora were given: pass {language: texts or path}")
    length = document_length(model, max_length, batch_tokens, pack)
    probe = ActivationProbe(model)
    found = Activations()
    for language, source in corpora.items():
        report = found.corpora[language] = CorpusReport()
        if positions == "response":
            documents = tokenise_pairs(read_pairs(source, report), tokenizer, length, report)
        else:
            documents = ((one, 0) for one in tokenise(read_texts(source, report), tokenizer, length, report, pack))
        found[language] = count(probe, documents, positions, batch_tokens, language, progress)
        if found[language].tokens == 0:
            raise CorpusError(f"language {language!r} has no positions to count: {str(report) or 'nothing was read'}")
    return found


def count(
    probe: ActivationProbe,
    documents: Iterable[tuple[list[int], int]],
    positions: str,
    batch_tokens: int,
    name: str,
    progress: bool,
    kind: str = "language",
) -> ActivationStatistics:
    """Of documents' tokens, each with the place of its first one that is the response's; name and kind are for messages."""
    decoder, tokens = probe.decoder, 0
    device = model_device(decoder.model)
    active = torch.zeros(len(decoder.layers), decoder.widths()["ffn"], dtype=torch.int64)
    with show_progress(f"{name}: counting", "documents", progress) as bar:
        for batch, starts in _batches(documents, batch_tokens):
            counted = _counted(batch, starts, positions)
            with naming(f"{kind} {name!r}", batch):
                active += probe.measure(batch.input_ids.to(device), batch.attention_mask.to(device), counted.to(device))
            tokens += int(counted.sum())
            bar.update(len(batch.order))
    return ActivationStatistics(active, tokens)


def _batches(documents: Iterable[tuple[list[int], int]], batch_tokens: int) -> Iterator[tuple[Batch, Tensor]]:
    """Batches, with the first token of every row that can count."""
    starts: dict[int, int] = {}  # of documents that were read and are in no batch yet

    def tokens() -> Iterator[list[int]]:
        for number, (document, start) in enumerate(documents):
            starts[number] = start
            yield document

    for batch in batches(tokens(), batch_tokens):
        yield batch, torch.tensor([starts.pop(number) for number in batch.order])


def _counted(batch: Batch, starts: Tensor, positions: str) -> Tensor:
    """(documents, length) bool; documents are padded on the right."""
    place = torch.arange(batch.input_ids.shape[1])
    if positions == "last":
        return place == batch.attention_mask.sum(1, keepdim=True) - 1
    return batch.attention_mask.bool() & (place >= starts[:, None])
