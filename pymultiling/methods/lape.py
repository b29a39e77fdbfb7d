"""Language-specific neurons by the entropy of how often languages activate them (LAPE, arXiv 2402.16438)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy
import torch
from torch import Tensor

from pymultiling.neurons.activation_statistics import ActivationStatistics, stack_probabilities
from pymultiling.neurons.sets import NeuronSet

DECIMALS = 12  # scores that agree so far are equal: what is selected does not hang on the last bit of a logarithm


def lape(
    statistics: Mapping[str, ActivationStatistics], *, top: float = 0.01, bar: float = 0.95
) -> dict[str, NeuronSet]:
    """The neurons that few languages activate, for each of these languages.

        p[k] = active / tokens of language k,    q = p / sum_k p[k],    H = - sum_k q[k] ln q[k]    (nats)

    The threshold is the round(bar * number)-th smallest p of all neurons and languages. Of the neurons that have a p
    above it, the round(top * layers * neurons) with the lowest entropy H are selected; a selected neuron belongs to
    every language whose p is above the threshold. Of equal entropies (to 12 decimals) the first by layer and index are
    taken. Source: arXiv 2402.16438 and its published code.

    Args:
        statistics: {language: counts}, of one model.
        top: the fraction of all neurons that is selected.
        bar: the fraction of all probabilities that the threshold leaves at or below it.

    Returns:
        {language: NeuronSet} at site "ffn", (layers, neurons). Their union is round(top * layers * neurons) neurons, or
        fewer: all that have a p above the threshold, where many probabilities are equal.

    Raises:
        ValueError: fewer than two languages, counts of different models, no position counted in a language, or top or
            bar not between 0 and 1.
    """
    p = language_probabilities(statistics, top, bar)
    active = p > threshold_of(p, bar)
    scores = entropy(p).where(active.any(-1), torch.inf)  # should these be taken too, no language has them
    selected = lowest(scores, round(top * scores.numel()))
    return of_languages(statistics, active & selected[..., None])


def language_probabilities(statistics: Mapping[str, ActivationStatistics], top: float, bar: float) -> Tensor:
    """(layers, neurons, languages) float64; ValueError as `lape`."""
    for name, fraction in (("top", top), ("bar", bar)):
        if not 0 < fraction < 1:
            raise ValueError(f"{name} must be a fraction above 0 and below 1, got {fraction!r}")
    p = stack_probabilities(statistics)
    if p.shape[-1] < 2:
        raise ValueError("one language alone has no entropy over languages: count activations in at least two")
    return p


def threshold_of(p: Tensor, bar: float) -> float:
    """The round(bar * number)-th smallest of all probabilities (the smallest, where that is the 0th)."""
    return _smallest(p.flatten(), max(1, round(bar * p.numel())))


def entropy(p: Tensor) -> Tensor:
    """(layers, neurons), in nats, of p (layers, neurons, languages); ln K, the most, where a neuron is never active."""
    total = p.sum(-1, keepdim=True)
    return torch.special.entr((p / total).where(total > 0, 1 / p.shape[-1])).sum(-1)


def lowest(scores: Tensor, count: int) -> Tensor:
    """True for so many of the lowest scores; of those that agree to 12 decimals the first ones are taken."""
    flat = scores.flatten().round(decimals=DECIMALS)
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    cut = _smallest(flat, count)
    taken = flat < cut
    equal = (flat == cut).nonzero().squeeze(1)
    taken[equal[: count - int(taken.sum())]] = True
    return taken.view(scores.shape)


def of_languages(languages: Mapping[str, object], members: Tensor) -> dict[str, NeuronSet]:
    """members: (layers, neurons, languages) bool, in the mapping's order."""
    return {language: NeuronSet({"ffn": mask}) for language, mask in zip(languages, members.unbind(-1))}


def _smallest(values: Tensor, k: int) -> float:
    """The k-th smallest. torch.kthvalue is quadratic where values descend: minutes for those of a model."""
    return float(numpy.partition(values.cpu().numpy(), k - 1)[k - 1])
