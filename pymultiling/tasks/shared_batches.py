"""Batches that several sets of neurons share: they hold every document once for each set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from pymultiling.data.batches import Batch, make_batches
from pymultiling.models.decoder import Decoder
from pymultiling.models.length_scaling import LengthGroup, any_length
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets


def prepend_none(model: nn.Module, sets: Mapping[str, NeuronSet]) -> dict[str, NeuronSet | None]:
    """Returns {"none": None} followed by the sets.

    Raises:
        ValueError: a set, which the message names, is of another model, or is named "none".
    """
    if "none" in sets:
        raise ValueError('"none" names the row without any set; give the set another name')
    check_sets(Decoder(model), {f"set {name!r}": neurons for name, neurons in sets.items()})
    return {"none": None, **sets}


def shared_batches(
    documents: Sequence[Sequence[int]],
    sets: int,
    batch_tokens: int,
    *,
    pad: int = 0,
    left: bool = False,
    extra_tokens: int = 0,
    group: LengthGroup = any_length,
) -> Iterator[tuple[Batch, tuple[int, ...], tuple[int, ...]]]:
    """Batches documents of similar length, each once for every set, the longest documents first.

    Args:
        documents: the tokens of every document.
        sets: the number of sets.
        batch_tokens: as in `make_batches`.
        pad: as in `make_batches`.
        left: as in `make_batches`.
        extra_tokens: as in `make_batches`.
        group: as in `make_batches`.

    Yields:
        A batch, and for each of its rows the index of the document and the index of the set.
    """
    by_length = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
    pairs = [(document, neuron_set) for document in by_length for neuron_set in range(sets)]
    repeated = (documents[document] for document, _ in pairs)
    for batch in make_batches(repeated, batch_tokens, pad, left=left, extra_tokens=extra_tokens, group=group):
        document_indices, set_indices = zip(*(pairs[order] for order in batch.order))
        yield batch, document_indices, set_indices
