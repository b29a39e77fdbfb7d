"""Rules that select neurons by importance: the paper's threshold, the top k of its published code, the top means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.ranking import TOP_FRACTIONS, count_among, count_top, largest, top_amount, top_amounts
from pymultiling.neurons.sets import NeuronSet
from pymultiling.neurons.widths import Widths, by_width, without_padding


@dataclass(frozen=True)
class _Amounts:
    """How many neurons of a layer count as the most important: k for FFN neurons and for those of attention."""

    ffn: float | int = 0.05
    attention: float | int = 0.05

    def __post_init__(self) -> None:
        for name, amount in (("ffn", self.ffn), ("attention", self.attention)):
            if not amount >= 0 or (amount > 1 and not isinstance(amount, Integral)):
                raise ValueError(f"{name} must be a fraction from 0.0 to 1.0 or a count, got {amount!r}")

    def _k(self, site: str, width: int) -> int:
        return top_amount(self.ffn if site == "ffn" else self.attention, width)

    def _largest(self, site: str, values: Tensor, widths: Sequence[int] | None) -> Tensor:
        """Returns a mask of the k largest values of each layer, like the values (.., layers, neurons)."""
        return by_width(values, widths, lambda layers, width: largest(layers, self._k(site, width)))

    def _describe(self) -> str:
        ffn, attention = (int(x) if isinstance(x, Integral) else float(x) for x in (self.ffn, self.attention))
        return f"ffn {ffn!r}, attention {attention!r}"


@dataclass(frozen=True)
class TopK(_Amounts):
    """Selects a neuron that is among the k most important of its layer and site in enough documents.

    A neuron whose importance in a document is 0 is not among the k of this document.
    Source: the published code of arXiv 2402.18815, which uses counts and share = 1. The defaults were chosen with real
    models (docs/papers/plnd.md).

    Args:
        ffn: k for the FFN neurons of a layer: a fraction of them (float, 0.0 to 1.0) or a count (int).
        attention: k for each of the sites q, k, v and o: a fraction of a layer's neurons (float, 0.0 to 1.0) or a count
            (int).
        share: fraction of a language's documents that a neuron must be among the k in, above 0 and at most 1.

    Raises:
        ValueError: an argument is outside its range.
    """

    share: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share!r}")

    def votes(self, importance: Mapping[str, Tensor], widths: Widths | None = None) -> dict[str, Tensor]:
        """Finds the k most important neurons of every document, layer and site.

        Args:
            importance: {site: (documents, layers, neurons)}.
            widths: {site: neurons of each layer}, for the sites whose layers differ. A fraction is of the layer's own
                neurons.

        Returns:
            {site: (documents, layers, neurons) bool}, True for the k most important neurons.
        """
        return {site: self._largest(site, values, (widths or {}).get(site)) for site, values in importance.items()}

    def count(
        self, importance: Mapping[str, Tensor], widths: Widths | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Counts votes, and ranks for `NeuronStatistics.top`, with one ranking of every document, layer and site.

        Args:
            importance: {site: (documents, layers, neurons)}.
            widths: as in `votes`.

        Returns:
            {site: (layers, neurons)}, in how many documents the neuron is among the k; and {site: (6, layers,
            neurons)}, as `NeuronStatistics.top`.
        """
        votes, top = {}, {}
        for site, values in importance.items():

            def count_layers(layers: Tensor, width: int, site: str = site) -> Tensor:
                return count_among(layers, [self._k(site, width), *top_amounts(width)])

            counts = by_width(values, (widths or {}).get(site), count_layers)
            votes[site], top[site] = counts[0], counts[1:]
        return votes, top

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """Selects the neurons that have votes from at least `share` of the documents, and from at least one.

        Args:
            statistics: the statistics of one language. They were measured with this rule, though perhaps with another
                `share`; or they have `NeuronStatistics.top` for the k of this rule: 0.5, 1, 2, 5, 10 or 20 % of a layer
                and site.

        Returns:
            The selected neurons.

        Raises:
            ValueError: the statistics do not hold the votes of this rule.
        """
        needed = max(1, math.ceil(self.share * statistics.documents - 1e-9))
        return NeuronSet(
            {site: votes >= needed for site, votes in self._votes_in(statistics).items()}, statistics.widths
        )

    def rule(self) -> str:
        """Returns the text that identifies the votes of this rule: its k, without `share`."""
        return f"top-k, {self._describe()}"

    def _votes_in(self, statistics: NeuronStatistics) -> dict[str, Tensor]:
        # `detect` appends how importance is defined. No rule of a selection contains "; ".
        if statistics.rule.split("; ")[0] == self.rule():
            return statistics.votes
        votes = {}
        for site, values in statistics.votes.items():

            def votes_of_layers(layers: Tensor, width: int, site: str = site) -> Tensor:
                k, amounts = self._k(site, width), top_amounts(width) if statistics.top else []
                if k in amounts:
                    return layers[amounts.index(k)]
                if k == 0:
                    return torch.zeros_like(layers[0])
                raise self._not_counted(statistics)

            counts = statistics.top.get(site, values.unsqueeze(0))
            votes[site] = by_width(counts, statistics.widths.get(site), votes_of_layers)
        return votes

    def _not_counted(self, statistics: NeuronStatistics) -> ValueError:
        fractions = ", ".join(map(str, TOP_FRACTIONS))
        counted = f" and of the fractions {fractions}" if statistics.top else " alone, as earlier versions do"
        choices = "one of these fractions, by another share" if statistics.top else "another share"
        return ValueError(
            f"these statistics hold the votes of {statistics.rule}{counted}, not of {self.rule()}: select by "
            f"{choices}, by TopMean or by Threshold, or measure again with this rule"
        )


@dataclass(frozen=True)
class TopMean(_Amounts):
    """Selects the k neurons of each layer and site whose mean importance over the documents is the largest.

    It works on any statistics with any k. A few documents in which a neuron matters very much are enough for it, unlike
    with `TopK`. A neuron whose mean is 0 is not selected.

    Args:
        ffn: k for the FFN neurons of a layer: a fraction of them (float, 0.0 to 1.0) or a count (int).
        attention: k for each of the sites q, k, v and o: a fraction of a layer's neurons (float, 0.0 to 1.0) or a count
            (int).

    Raises:
        ValueError: an argument is outside its range.
    """

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """Selects the neurons.

        Args:
            statistics: the statistics of one language, measured with any rule.

        Returns:
            The selected neurons. The set is empty if the statistics have no documents.
        """
        widths = statistics.widths
        masks = {site: self._largest(site, values, widths.get(site)) for site, values in statistics.sum.items()}
        return NeuronSet(masks, widths)

    def rule(self) -> str:
        """Returns the text that identifies this rule."""
        return f"top mean, {self._describe()}"


@dataclass(frozen=True)
class Threshold:
    """Selects a neuron whose importance is at least epsilon in every document.

    None is selected where the importance of a whole layer and site is 0, as in layers that have no attention.
    Source: arXiv 2402.18815, eq. 2.

    Args:
        epsilon: the smallest importance of a selected neuron, in the unit of the importance.
    """

    epsilon: float

    def votes(self, importance: Mapping[str, Tensor], widths: Widths | None = None) -> dict[str, Tensor]:
        """Finds the neurons whose importance in a document is at least epsilon.

        Args:
            importance: {site: (documents, layers, neurons)}.
            widths: {site: neurons of each layer}, for the sites whose layers differ.

        Returns:
            {site: (documents, layers, neurons) bool}, True where the importance is at least epsilon.
        """
        return {
            site: without_padding((values >= self.epsilon) & _has_neurons(values), (widths or {}).get(site))
            for site, values in importance.items()
        }

    def count(
        self, importance: Mapping[str, Tensor], widths: Widths | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Counts votes, and ranks for `NeuronStatistics.top`.

        Args:
            importance: {site: (documents, layers, neurons)}.
            widths: as in `votes`.

        Returns:
            {site: (layers, neurons)}, in how many documents the importance is at least epsilon; and {site: (6, layers,
            neurons)}, as `NeuronStatistics.top`.
        """
        votes = {site: selected.sum(0) for site, selected in self.votes(importance, widths).items()}
        return votes, count_top(importance, widths)

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """Selects the neurons whose smallest importance is at least epsilon.

        Args:
            statistics: the statistics of one language, measured with any rule.

        Returns:
            The selected neurons. The set is empty if the statistics have no documents.
        """
        has_documents, widths = statistics.documents > 0, statistics.widths
        masks = {
            site: (low >= self.epsilon) & has_documents & _has_neurons(statistics.sum[site])
            for site, low in statistics.minimum.items()
        }
        return NeuronSet({site: without_padding(mask, widths.get(site)) for site, mask in masks.items()}, widths)

    def rule(self) -> str:
        """Returns the text that identifies the votes of this rule."""
        return f"threshold {self.epsilon!r}"


def _has_neurons(values: Tensor) -> Tensor:
    """Returns (.., layers, 1) bool, whether any value of a layer (.., layers, neurons) is above 0."""
    return (values > 0).any(-1, keepdim=True)
