"""Running statistics of importance over documents: a commutative monoid under +."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.neurons.sites import SITES
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.statistics/1"


@dataclass
class NeuronStatistics:
    """What is known of every neuron's importance after some documents.

    `a + b` is exactly what one pass over both would give: minimum, votes and counts bit for bit, sums to rounding.

    Attributes:
        documents: how many.
        tokens: how many, padding left out.
        sum: {site: (layers, neurons) float64}, sum over the documents of the importance.
        minimum: {site: (layers, neurons)}, smallest importance in any document; inf where there was none.
        votes: {site: (layers, neurons) int64}, number of documents that the rule selected the neuron in.
        rule: the rule that voted; statistics of different rules do not add.
    """

    documents: int
    tokens: int
    sum: dict[str, Tensor]
    minimum: dict[str, Tensor]
    votes: dict[str, Tensor]
    rule: str

    @classmethod
    def of_nothing(
        cls, widths: dict[str, int], layers: int, rule: str, dtype: torch.dtype = torch.float32
    ) -> NeuronStatistics:
        """The neutral element: no documents of a model with these neurons a layer, and importance of this dtype."""
        shapes = {site: (layers, width) for site, width in widths.items()}
        return cls(
            documents=0,
            tokens=0,
            sum={site: torch.zeros(shape, dtype=torch.float64) for site, shape in shapes.items()},
            minimum={site: torch.full(shape, torch.inf, dtype=dtype) for site, shape in shapes.items()},
            votes={site: torch.zeros(shape, dtype=torch.int64) for site, shape in shapes.items()},
            rule=rule,
        )

    @classmethod
    def of_batch(
        cls, importance: dict[str, Tensor], votes: dict[str, Tensor], tokens: int, rule: str
    ) -> NeuronStatistics:
        """Statistics of one batch: importance and votes are {site: (documents, layers, neurons)}."""
        return cls(
            documents=next(iter(importance.values())).shape[0],
            tokens=tokens,
            sum={site: values.cpu().sum(0, dtype=torch.float64) for site, values in importance.items()},
            minimum={site: values.amin(0).cpu() for site, values in importance.items()},
            votes={site: chosen.sum(0).cpu() for site, chosen in votes.items()},
            rule=rule,
        )

    def __add__(self, other: NeuronStatistics) -> NeuronStatistics:
        if self.rule != other.rule:
            raise ValueError(f"votes of different rules do not add: {self.rule} and {other.rule}")
        if self.sum.keys() != other.sum.keys():
            raise ValueError(f"statistics of different sites do not add: {list(self.sum)} and {list(other.sum)}")
        for site in self.sum:
            if self.sum[site].shape != other.sum[site].shape:
                raise ValueError(f"statistics of different models do not add: their {site} differ in shape")
        return NeuronStatistics(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            sum={site: self.sum[site] + other.sum[site] for site in self.sum},
            minimum={site: torch.minimum(self.minimum[site], other.minimum[site]) for site in self.minimum},
            votes={site: self.votes[site] + other.votes[site] for site in self.votes},
            rule=self.rule,
        )

    def over(self, processes: Processes) -> NeuronStatistics:
        """Those of all processes together, each with documents of its own."""
        documents, tokens = processes.total(torch.tensor([self.documents, self.tokens])).tolist()
        sites = [
            site for site in SITES if site in self.sum
        ]  # in every process the same order, which loading may change
        return NeuronStatistics(
            documents=documents,
            tokens=tokens,
            sum={site: processes.total(self.sum[site]) for site in sites},
            minimum={site: processes.least(self.minimum[site]) for site in sites},
            votes={site: processes.total(self.votes[site]) for site in sites},
            rule=self.rule,
        )

    def mean(self, site: str) -> Tensor:
        """(layers, neurons) float64: importance per document."""
        return self.sum[site] / self.documents

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file."""
        tensors = {
            f"{kind}.{site}": value
            for kind in ("sum", "minimum", "votes")
            for site, value in getattr(self, kind).items()
        }
        counts = {"documents": str(self.documents), "tokens": str(self.tokens), "rule": self.rule}
        save_tensors(path, tensors, FORMAT, counts)

    @classmethod
    def load(cls, path: str | Path) -> NeuronStatistics:
        """Reads what `save` wrote; CheckpointError where the file is damaged or something else."""
        tensors, metadata = load_tensors(path, FORMAT, "statistics of neurons")
        kinds: dict[str, dict[str, Tensor]] = {"sum": {}, "minimum": {}, "votes": {}}
        for name, value in tensors.items():
            kind, site = name.split(".")
            kinds[kind][site] = value
        return cls(int(metadata["documents"]), int(metadata["tokens"]), rule=metadata["rule"], **kinds)
