"""Rules that select neurons by importance: the paper's threshold, and the top k of its published code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from pymultiling.neurons.importance_statistics import NeuronStatistics
from pymultiling.neurons.sets import NeuronSet


@dataclass(frozen=True)
class TopK:
    """Selects a neuron that is among the k most important of its layer and site in enough documents.

    A neuron whose importance in a document is 0 is not among the k of this document.
    Source: the published code of arXiv 2402.18815, which uses counts and share = 1.

    Args:
        ffn: k for the FFN neurons of a layer: a fraction of them (float, 0.0 to 1.0) or a count (int).
        attention: k for each of the sites q, k, v and o: a fraction of a layer's neurons (float, 0.0 to 1.0) or a count
            (int).
        share: fraction of a language's documents that a neuron must be among the k in, above 0 and at most 1.

    Raises:
        ValueError: an argument is outside its range.
    """

    ffn: float | int = 0.1
    attention: float | int = 0.1
    share: float = 1.0

    def __post_init__(self) -> None:
        for name, amount in (("ffn", self.ffn), ("attention", self.attention)):
            if amount < 0 or (amount > 1 and not isinstance(amount, Integral)):
                raise ValueError(f"{name} must be a fraction from 0.0 to 1.0 or a count, got {amount!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {self.share!r}")

    def votes(self, importance: dict[str, Tensor]) -> dict[str, Tensor]:
        """Finds the k most important neurons of every document, layer and site.

        Args:
            importance: {site: (documents, layers, neurons)}.

        Returns:
            {site: (documents, layers, neurons) bool}, True for the k most important neurons.
        """
        return {site: self._top(site, values) for site, values in importance.items()}

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """Selects the neurons that have votes from at least `share` of the documents, and from at least one.

        Args:
            statistics: the statistics of one language, measured with this rule, though perhaps with another `share`.

        Returns:
            The selected neurons.

        Raises:
            ValueError: the statistics were measured with another rule.
        """
        # `detect` appends how importance is defined. No rule of a selection contains "; ".
        if statistics.rule.split("; ")[0] != self.rule():
            raise ValueError(
                f"these statistics hold the votes of {statistics.rule}, not of {self.rule()}: measure again with this "
                "rule, or select by another share or by Threshold"
            )
        needed = max(1, math.ceil(self.share * statistics.documents - 1e-9))
        return NeuronSet({site: votes >= needed for site, votes in statistics.votes.items()})

    def rule(self) -> str:
        """Returns the text that identifies the votes of this rule: its k, without `share`."""
        ffn, attention = (int(x) if isinstance(x, Integral) else float(x) for x in (self.ffn, self.attention))
        return f"top-k, ffn {ffn!r}, attention {attention!r}"

    def _top(self, site: str, values: Tensor) -> Tensor:
        amount, width = self.ffn if site == "ffn" else self.attention, values.shape[-1]
        # A fraction above 0 selects at least one neuron.
        k = amount if isinstance(amount, Integral) else max(round(amount * width), amount > 0)
        top = torch.zeros_like(values, dtype=torch.bool)
        top.scatter_(-1, values.topk(min(int(k), width), dim=-1).indices, True)
        return top & (values > 0)


@dataclass(frozen=True)
class Threshold:
    """Selects a neuron whose importance is at least epsilon in every document.

    Source: arXiv 2402.18815, eq. 2.

    Args:
        epsilon: the smallest importance of a selected neuron, in the unit of the importance.
    """

    epsilon: float

    def votes(self, importance: dict[str, Tensor]) -> dict[str, Tensor]:
        """Finds the neurons whose importance in a document is at least epsilon.

        Args:
            importance: {site: (documents, layers, neurons)}.

        Returns:
            {site: (documents, layers, neurons) bool}, True where the importance is at least epsilon.
        """
        return {site: values >= self.epsilon for site, values in importance.items()}

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """Selects the neurons whose smallest importance is at least epsilon.

        Args:
            statistics: the statistics of one language, measured with any rule.

        Returns:
            The selected neurons. The set is empty if the statistics have no documents.
        """
        has_documents = statistics.documents > 0
        return NeuronSet({site: (low >= self.epsilon) & has_documents for site, low in statistics.minimum.items()})

    def rule(self) -> str:
        """Returns the text that identifies the votes of this rule."""
        return f"threshold {self.epsilon!r}"
