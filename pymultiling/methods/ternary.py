"""Ternary neurons: language-specific, language-related and general neurons (arXiv 2505.21505)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pymultiling.methods.lape import (
    entropy,
    ffn_set,
    language_probabilities,
    probability_threshold,
    select_lowest,
    split_by_language,
)
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas

TernaryScale: TypeAlias = Literal["released", "paper"]
LARGEST_LAM, LAM_PRECISION = 0.2, 1e-3  # of the search for lam, in the released scale


@dataclass(frozen=True)
class Ternary:
    """The result of `ternary`: selected neurons, grouped by the number of the K languages that they belong to.

    All sets are at site "ffn".

    Attributes:
        neurons: {language: NeuronSet}, the selected neurons that belong to the language.
        specific: selected neurons of one language.
        related: selected neurons of 2 ... K - 1 languages.
        general: selected neurons of all K languages.
        lam: the weight of the largest probability, in the scale that was asked for.
        threshold: a neuron belongs to a language if its activation probability there is above this value.
        histogram: K + 1 numbers, how many selected neurons belong to 0, 1, ... K languages. Those of no language are in
            none of the three groups.
    """

    neurons: dict[str, NeuronSet]
    specific: NeuronSet
    related: NeuronSet
    general: NeuronSet
    lam: float
    threshold: float
    histogram: list[int]

    def __repr__(self) -> str:
        return short_repr(self)

    def by_layer(self) -> pandas.DataFrame:
        """Counts the neurons of each kind in every layer.

        Returns:
            DataFrame with a row for each layer. Columns: layer, specific, related, general (numbers of neurons).
        """
        import pandas

        table = pandas.DataFrame({kind: neurons.count("layer")["ffn"] for kind, neurons in sets_by_kind(self).items()})
        table.insert(0, "layer", range(len(table)))
        return table


def sets_by_kind(result: Ternary) -> dict[str, NeuronSet]:
    """Returns {kind: NeuronSet} for "specific", "related" and "general"."""
    return {"specific": result.specific, "related": result.related, "general": result.general}


def ternary(
    statistics: Mapping[str, ActivationStatistics],
    *,
    top: float = 0.01,
    bar: float = 0.95,
    lam: float | Literal["auto"] = "auto",
    scale: TernaryScale = "released",
) -> Ternary:
    """Selects neurons that differ between languages or are very active in one, and groups them by number of languages.

        rank by  H / ln K - lam * max_k p[k] * K / H_K      scale="released": the published code
        rank by  H        - lam * max_k p[k]                scale="paper": eq. 5

    p are the activation probabilities and H their entropy over the K languages, as in `lape`; H is ln K for a neuron
    that is never active. H_K = 1 + 1/2 + ... + 1/K. The round(top * all neurons) neurons with the lowest values
    are selected. If values are equal (to 12 decimals in the released scale), the first by layer and index are
    selected. A selected neuron belongs to every language in which p is above the threshold of `lape` (eq. 6).

    Both scales select the same neurons if lam(paper) = lam(released) * K ln K / H_K.

    Source: arXiv 2505.21505, eq. 5 and 6, and its published code.

    Args:
        statistics: {language: ActivationStatistics} of one model, as `activations` returns them; two languages or more.
        top: fraction of all neurons that is selected, above 0 and below 1.
        bar: fraction of all probabilities that is at or below the threshold, above 0 and below 1.
        lam: the weight of the largest probability, at least 0, in the chosen scale. "auto": the largest weight with
            which no general neuron is selected. It is found by bisection of [0, 0.2], in the released scale, down to
            a width of at most 0.001, whose lower end is returned; it is 0.2 if that selects no general neuron.
        scale: the scale of the ranked values, "released" or "paper".

    Returns:
        A `Ternary`, with masks of (layers, neurons).

    Raises:
        ValueError: as `lape`; an invalid lam or scale; lam="auto" if general neurons are selected even with lam = 0.
    """
    if scale not in get_args(TernaryScale):
        raise ValueError(f'scale must be "released" or "paper", got {scale!r}')
    if lam != "auto" and not (isinstance(lam, Real) and 0 <= lam < math.inf):
        raise ValueError(f'lam must be "auto" or a number of at least 0, got {lam!r}')
    p = language_probabilities(statistics, top, bar)
    languages = p.shape[-1]
    threshold = probability_threshold(p, bar)
    active = p > threshold
    language_counts = active.sum(-1)
    harmonic_mean = sum(1 / i for i in range(1, languages + 1)) / languages  # H_K / K
    scaled_entropy, scaled_maximum = entropy(p) / math.log(languages), p.amax(-1) / harmonic_mean
    count = round(top * language_counts.numel())

    def select(released_lam: float) -> Tensor:
        return select_lowest(scaled_entropy - released_lam * scaled_maximum, count)

    # A lam in `scale` is this many times the lam in the released scale.
    unit = math.log(languages) / harmonic_mean if scale == "paper" else 1.0
    if lam == "auto":
        weight = unit * _largest_lam(
            lambda released_lam: int((language_counts[select(released_lam)] == languages).sum())
        )
    else:
        weight = float(lam)
    selected = select(weight / unit)
    return Ternary(
        neurons=split_by_language(statistics, active & selected[..., None]),
        specific=ffn_set(statistics, selected & (language_counts == 1)),
        related=ffn_set(statistics, selected & (language_counts > 1) & (language_counts < languages)),
        general=ffn_set(statistics, selected & (language_counts == languages)),
        lam=weight,
        threshold=threshold,
        histogram=torch.bincount(language_counts[selected], minlength=languages + 1).tolist(),
    )


def _largest_lam(count_general: Callable[[float], int]) -> float:
    """Searches for the largest lam that selects no general neuron.

    Args:
        count_general: returns the number of general neurons that a lam selects; both are in the released scale.

    Returns:
        The lower end of the last interval of the bisection.

    Raises:
        ValueError: lam = 0 selects general neurons.
    """
    if count_general(LARGEST_LAM) == 0:
        return LARGEST_LAM
    if general_at_zero := count_general(0.0):
        raise ValueError(
            f'lam="auto" needs a lam that selects no general neuron, but lam = 0 selects {general_at_zero}: give lam '
            "as a number, or another top or bar"
        )
    low, high = 0.0, LARGEST_LAM
    while high - low > LAM_PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if count_general(middle) else (middle, high)
    return low
