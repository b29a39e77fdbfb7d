"""Batches that many sets of neurons share: every document once under every set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pymultiling.data.batches import Batch, make_batches
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.probes.masking import check_sets


def prepend_none(model, sets: Mapping[str, NeuronSet]) -> dict[str, NeuronSet | None]:
    """The sets after "none"; ValueError, naming the set, where one is of another model or is called so itself."""
    if "none" in sets:
        raise ValueError('"none" names the row without any set; give the set another name')
    check_sets(Decoder(model), {f"set {name!r}": one for name, one in sets.items()})
    return {"none": None, **sets}


def shared_batches(
    documents: Sequence[list[int]], sets: int, batch_tokens: int, **layout
) -> Iterator[tuple[Batch, tuple[int, ...], tuple[int, ...]]]:
    """Batches of documents of like length, longest first, with the places of the rows' documents and of their sets.

    layout: as `batches` takes it.
    """
    by_length = sorted(range(len(documents)), key=lambda place: -len(documents[place]))
    work = [(place, number) for place in by_length for number in range(sets)]
    for batch in make_batches((documents[place] for place, _ in work), batch_tokens, **layout):
        yield batch, *zip(*(work[order] for order in batch.order))
