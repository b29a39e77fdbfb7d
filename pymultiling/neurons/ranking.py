"""In how many documents a neuron is among the k most important of its layer and site, for several k at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor

from pymultiling.neurons.widths import Widths, by_width

# The fractions of a layer and site for which `NeuronStatistics.top` counts documents.
TOP_FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


def top_amount(amount: float, width: int) -> int:
    """Returns k for `width` neurons. A count is itself, at most `width`. A fraction above 0 is at least one neuron."""
    k = int(amount) if isinstance(amount, Integral) else max(round(amount * width), int(amount > 0))
    return min(k, width)


def count_top(importance: Mapping[str, Tensor], widths: Widths | None = None) -> dict[str, Tensor]:
    """Counts for every fraction of TOP_FRACTIONS.

    Args:
        importance: {site: (documents, layers, neurons)}.
        widths: {site: neurons of each layer}, for the sites whose layers differ.

    Returns:
        {site: (fractions, layers, neurons) int32}.
    """
    return {
        site: by_width(values, (widths or {}).get(site), lambda layers, width: count_among(layers, top_amounts(width)))
        for site, values in importance.items()
    }


def largest(values: Tensor, k: int) -> Tensor:
    """Returns a mask of the k largest values of each row that are above 0, like the values (.., neurons)."""
    top = values.topk(k, dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, top, True) & (values > 0)


def top_amounts(width: int) -> list[int]:
    """Returns k for each of TOP_FRACTIONS, in a layer with this many neurons of a site."""
    return [top_amount(fraction, width) for fraction in TOP_FRACTIONS]


def count_among(values: Tensor, amounts: Sequence[int]) -> Tensor:
    """Counts the documents in which a neuron is among the k most important of its layer and site, for each k.

    A neuron whose importance in a document is 0 is not among the k of this document.

    Args:
        values: (documents, layers, neurons), the importance.
        amounts: the numbers k, from 0 to the number of neurons.

    Returns:
        (amounts, layers, neurons) int32, on the device of the values.
    """
    _, layers, width = values.shape
    steps = sorted({0, *amounts})
    # One ranking serves all k. The host must not wait, so nothing here depends on values or copies from the host.
    top = values.topk(steps[-1], dim=-1)
    step = torch.empty(steps[-1], dtype=torch.int64, device=values.device)  # the smallest k that includes the rank
    for number, (start, stop) in enumerate(pairwise(steps), 1):
        step[start:stop].fill_(number)
    rows = step * layers + torch.arange(layers, device=values.device).unsqueeze(1)  # of `counts`: one a step and layer
    cells = top.indices.add_(rows * width)
    counts = torch.zeros(len(steps) * layers * width, dtype=torch.int32, device=values.device)
    counts.scatter_add_(0, cells.flatten(), (top.values > 0).flatten().int())
    within = counts.view(len(steps), layers, width).cumsum(0, dtype=torch.int32)
    return torch.stack([within[steps.index(amount)] for amount in amounts])
