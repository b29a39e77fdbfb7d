"""Language-specific, language-related and general neurons (arXiv 2505.21505)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import torch

from pymultiling.methods.lape import (
    entropy,
    language_probabilities,
    probability_threshold,
    select_lowest,
    split_by_language,
)
from pymultiling.neurons.activation_statistics import ActivationStatistics
from pymultiling.neurons.sets import NeuronSet

if TYPE_CHECKING:
    import pandas

KINDS = ("specific", "related", "general")
LARGEST, WIDTH = 0.2, 1e-3  # of the search for lam, in the released scale


@dataclass(frozen=True)
class Ternary:
    """Selected neurons, by how many of K languages have them: those in which their probability is above `threshold`.

    Attributes:
        neurons: {language: NeuronSet}, the selected neurons that are above the threshold in that language.
        specific: those of one language.
        related: those of 2 ... K - 1 languages.
        general: those of all K.
        lam: the weight of the largest probability, in the scale that was asked for.
        threshold: the probability above which a neuron is a language's.
        histogram: K + 1 numbers, the selected neurons of 0, 1, ... K languages; those of none are of no kind.
    """

    neurons: dict[str, NeuronSet]
    specific: NeuronSet
    related: NeuronSet
    general: NeuronSet
    lam: float
    threshold: float
    histogram: list[int]

    def by_layer(self) -> pandas.DataFrame:
        """A row a layer: layer, and the counts specific, related, general."""
        import pandas

        counts = {kind: getattr(self, kind).count("layer")["ffn"] for kind in KINDS}
        table = pandas.DataFrame(counts)
        table.insert(0, "layer", range(len(table)))
        return table


def ternary(
    statistics: Mapping[str, ActivationStatistics],
    *,
    top: float = 0.01,
    bar: float = 0.95,
    lam: float | str = "auto",
    scale: str = "released",
) -> Ternary:
    """The neurons that differ between languages or are very active in one, parted by how many languages have them.

        score = H / ln K - lam * max_k p[k] * K / H_K      "released": that of the published code
        score = H        - lam * max_k p[k]                "paper": eq. 5

    with p and the entropy H of `lape` (ln K where a neuron is never active), K languages, H_K = 1 + 1/2 + ... + 1/K.
    The scales select the same for lam(paper) = lam(released) * K ln K / H_K. The round(top * layers * neurons) with the
    lowest score are selected (of equal scores, to 12 decimals in the released scale, the first by layer and index); a
    selected neuron belongs to every language whose p is above the threshold of `lape` (eq. 6). Source: arXiv 2505.21505
    and its published code.

    Args:
        statistics: {language: counts}, of one model.
        top: the fraction of all neurons that is selected.
        bar: the fraction of all probabilities that the threshold leaves at or below it.
        lam: a number of at least 0, in that scale; "auto": the largest with no general neuron selected, found by
            bisection of [0, 0.2] in the released scale to a width of at most 0.001 (its lower end), or 0.2 itself.
        scale: "released" or "paper".

    Returns:
        Ternary; sets at site "ffn", (layers, neurons).

    Raises:
        ValueError: as `lape`; another lam or scale; "auto" where general neurons are selected with lam = 0 already.
    """
    if scale not in ("released", "paper"):
        raise ValueError(f'scale must be "released" or "paper", got {scale!r}')
    if lam != "auto" and not (isinstance(lam, Real) and 0 <= lam < math.inf):
        raise ValueError(f'lam must be "auto" or a number of at least 0, got {lam!r}')
    p = language_probabilities(statistics, top, bar)
    languages = p.shape[-1]
    threshold = probability_threshold(p, bar)
    active = p > threshold
    number = active.sum(-1)
    mean_share = sum(1 / i for i in range(1, languages + 1)) / languages
    spread, peak = entropy(p) / math.log(languages), p.amax(-1) / mean_share
    count = round(top * number.numel())

    def select(weight: float) -> torch.Tensor:
        return select_lowest(spread - weight * peak, count)

    unit = math.log(languages) / mean_share if scale == "paper" else 1.0
    if lam == "auto":
        lam = unit * _largest_lam(lambda weight: int((number[select(weight)] == languages).sum()))
    selected = select(lam / unit)
    return Ternary(
        split_by_language(statistics, active & selected[..., None]),
        NeuronSet({"ffn": selected & (number == 1)}),
        NeuronSet({"ffn": selected & (number > 1) & (number < languages)}),
        NeuronSet({"ffn": selected & (number == languages)}),
        float(lam),
        threshold,
        torch.bincount(number[selected], minlength=languages + 1).tolist(),
    )


def _largest_lam(general: Callable[[float], int]) -> float:
    """general: how many general neurons are selected with a lam, both in the released scale."""
    if general(LARGEST) == 0:
        return LARGEST
    if at_zero := general(0.0):
        raise ValueError(
            f'lam="auto" looks for no general neuron, but {at_zero} are selected even with lam = 0: give lam as a '
            "number, or another top or bar"
        )
    low, high = 0.0, LARGEST
    while high - low > WIDTH:
        middle = (low + high) / 2
        low, high = (low, middle) if general(middle) else (middle, high)
    return low
