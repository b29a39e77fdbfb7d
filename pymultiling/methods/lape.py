"""Language-specific neurons by the entropy of activation probabilities over languages (LAPE, arXiv 2402.16438)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch
from torch import Tensor

from pymultiling.neurons.activation_statistics import ActivationStatistics, stack_probabilities
from pymultiling.neurons.sets import NeuronSet

# Values are equal if they agree to this many decimals, so that the last bit of a logarithm does not decide.
DECIMALS = 12


def lape(
    statistics: Mapping[str, ActivationStatistics], *, top: float = 0.01, bar: float = 0.95
) -> dict[str, NeuronSet]:
    """Selects the neurons that few languages activate, and assigns them to these languages.

        p[k] = active / tokens of language k,    q = p / sum_k p[k],    H = - sum_k q[k] ln q[k]    (nats)

    Of all N probabilities of all neurons and languages, the round(bar * N)-th smallest is the threshold. Of the neurons
    with a probability above it, the round(top * all neurons) neurons with the lowest entropy H are selected. If
    entropies are equal (to 12 decimals), the first by layer and index are selected. A selected neuron belongs to every
    language in which its probability is above the threshold.

    Source: arXiv 2402.16438 and its published code.

    Args:
        statistics: {language: ActivationStatistics} of one model, as `activations` returns them; two languages or more.
        top: fraction of all neurons that is selected, above 0 and below 1.
        bar: fraction of all probabilities that is at or below the threshold, above 0 and below 1.

    Returns:
        {language: NeuronSet} at site "ffn", masks of (layers, neurons). Their union has round(top * all neurons)
        neurons. It has fewer if that many neurons do not exceed the threshold, because many probabilities are equal.

    Raises:
        ValueError: fewer than two languages, counts of different models, a language without counted positions, or top
            or bar out of range.
    """
    p = language_probabilities(statistics, top, bar)
    active = p > probability_threshold(p, bar)
    entropies = entropy(p).where(
        active.any(-1), torch.inf
    )  # a neuron below the threshold everywhere is selected last, and gets no language
    selected = select_lowest(entropies, round(top * entropies.numel()))
    return split_by_language(statistics, active & selected[..., None])


def language_probabilities(statistics: Mapping[str, ActivationStatistics], top: float, bar: float) -> Tensor:
    """Returns p, (neurons of all layers, languages) float64, after checking the arguments of `lape`.

    Raises:
        ValueError: as `lape`.
    """
    for name, fraction in (("top", top), ("bar", bar)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} must be a fraction above 0 and below 1, got {fraction!r}")
    p = stack_probabilities(statistics)
    if p.shape[-1] < 2:
        raise ValueError("one language alone has no entropy over languages: count activations in at least two")
    return p[next(iter(statistics.values())).is_neuron]


def probability_threshold(p: Tensor, bar: float) -> float:
    """Returns the round(bar * N)-th smallest of all N probabilities; the smallest if that is the 0th."""
    return _kth_smallest(p.flatten(), max(1, round(bar * p.numel())))


def entropy(p: Tensor) -> Tensor:
    """Returns the entropy over languages, (neurons,), in nats, from p (neurons, languages).

    A neuron that is never active has the maximum, ln(number of languages).
    """
    total = p.sum(-1, keepdim=True)
    entropies: Tensor = torch.special.entr((p / total).where(total > 0, 1 / p.shape[-1]))
    return entropies.sum(-1)


def select_lowest(values: Tensor, count: int) -> Tensor:
    """Returns a mask, True for the `count` lowest values; of values equal to 12 decimals the first are selected."""
    flat = values.flatten().round(decimals=DECIMALS)
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    largest_selected = _kth_smallest(flat, count)
    selected = flat < largest_selected
    ties = (flat == largest_selected).nonzero().squeeze(1)
    selected[ties[: count - int(selected.sum())]] = True
    return selected.view(values.shape)


def split_by_language(statistics: Mapping[str, ActivationStatistics], members: Tensor) -> dict[str, NeuronSet]:
    """Makes a set for each language from members, (neurons of all layers, languages) bool."""
    return {language: ffn_set(statistics, column) for language, column in zip(statistics, members.unbind(-1))}


def ffn_set(statistics: Mapping[str, ActivationStatistics], members: Tensor) -> NeuronSet:
    """Makes a set of FFN neurons from members, (neurons of all layers,) bool."""
    counts = next(iter(statistics.values()))
    return NeuronSet({"ffn": counts.is_neuron.masked_scatter(counts.is_neuron, members)}, counts.widths)


def _kth_smallest(values: Tensor, k: int) -> float:
    """Returns the k-th smallest value.

    torch.kthvalue is quadratic for descending values and takes minutes for those of a large model.
    """
    return float(numpy.partition(values.cpu().numpy(), k - 1)[k - 1])
