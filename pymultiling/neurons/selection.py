"""From importance to a set of neurons: the paper's threshold, and the top k of its published code."""

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
    """A neuron is selected when it is among the most important of its layer and site in enough documents.

    Args:
        ffn: how many of a layer's FFN neurons: a fraction (float, 0 ... 1) or a count (int).
        attention: likewise for each of q, k, v and o.
        share: the share of a language's documents in which it must be so.

    A neuron without any importance in a document is never among them. Source: the published code of arXiv 2402.18815
    (there share = 1, and counts).
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
        """{site: (documents, layers, neurons)} importance -> bool of the same shape: among the top of its layer."""
        return {site: self._top(site, values) for site, values in importance.items()}

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """The neurons with votes from at least `share` of the documents (at least one).

        Raises:
            ValueError: the votes are those of another rule; only `share` can be changed after measuring.
        """
        if statistics.rule.split("; ")[0] != self.rule():
            raise ValueError(
                f"these statistics hold the votes of {statistics.rule}, not of {self.rule()}: measure again with it, "
                "or select by another share or by Threshold"
            )
        needed = max(1, math.ceil(self.share * statistics.documents - 1e-9))
        return NeuronSet({site: votes >= needed for site, votes in statistics.votes.items()})

    def rule(self) -> str:
        """What the votes depend on."""
        ffn, attention = (int(x) if isinstance(x, Integral) else float(x) for x in (self.ffn, self.attention))
        return f"top-k, ffn {ffn!r}, attention {attention!r}"

    def _top(self, site: str, values: Tensor) -> Tensor:
        amount, width = self.ffn if site == "ffn" else self.attention, values.shape[-1]
        k = amount if isinstance(amount, Integral) else max(round(amount * width), amount > 0)
        top = torch.zeros_like(values, dtype=torch.bool)
        top.scatter_(-1, values.topk(min(int(k), width), dim=-1).indices, True)
        return top & (values > 0)


@dataclass(frozen=True)
class Threshold:
    """A neuron is selected when its importance is at least epsilon in every document (arXiv 2402.18815, eq. 2)."""

    epsilon: float

    def votes(self, importance: dict[str, Tensor]) -> dict[str, Tensor]:
        """{site: (documents, layers, neurons)} importance -> bool of the same shape: at least epsilon."""
        return {site: values >= self.epsilon for site, values in importance.items()}

    def select(self, statistics: NeuronStatistics) -> NeuronSet:
        """The neurons whose smallest importance is at least epsilon; none where there are no documents."""
        some = statistics.documents > 0
        return NeuronSet({site: (low >= self.epsilon) & some for site, low in statistics.minimum.items()})

    def rule(self) -> str:
        """What the votes depend on."""
        return f"threshold {self.epsilon!r}"
