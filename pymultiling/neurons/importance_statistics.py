"""NeuronStatistics: sums, minima and votes of importance over documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.neurons.sites import SITES
from pymultiling.runtime.device_copies import add, sums_device, to_device
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import FLOATS, TensorSchema, open_tensors

FORMAT = "pymultiling.statistics/1"
KINDS = ("sum", "minimum", "votes")  # a file has a tensor KIND.SITE for each


@dataclass
class NeuronStatistics:
    """Statistics of every neuron's importance over some documents.

    `a + b` are the statistics of the documents of both: `minimum`, `votes` and the counts bit for bit, `sum` to
    rounding. They are on the device of b. Statistics of different rules, sites or models cannot be added (ValueError).

    Attributes:
        documents: number of documents.
        tokens: number of tokens, without padding.
        sum: {site: (layers, neurons) float64}, sum of the importance over the documents.
        minimum: {site: (layers, neurons)}, smallest importance in a document. It is inf if there are no documents.
        votes: {site: (layers, neurons) int64}, number of documents in which the rule selected the neuron.
        rule: the rule that selected the votes, as `TopK.rule` or `Threshold.rule` returns it. `detect` appends "; " and
            how importance is defined: the score, the zeroing and whether q and k are estimated.
    """

    documents: int
    tokens: int
    sum: dict[str, Tensor]
    minimum: dict[str, Tensor]
    votes: dict[str, Tensor]
    rule: str

    @classmethod
    def of_nothing(
        cls, widths: Mapping[str, int], layers: int, rule: str, dtype: torch.dtype = torch.float32
    ) -> NeuronStatistics:
        """Makes the statistics of no documents, the neutral element of +.

        Args:
            widths: {site: neurons a layer} of the model.
            layers: number of layers of the model.
            rule: the rule that selects the votes.
            dtype: dtype of the importance.

        Returns:
            Statistics with `documents` and `tokens` 0, `sum` and `votes` 0, and `minimum` inf.
        """
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
        cls, importance: Mapping[str, Tensor], votes: Mapping[str, Tensor], tokens: int, rule: str
    ) -> NeuronStatistics:
        """Makes the statistics of one batch of documents.

        Args:
            importance: {site: (documents, layers, neurons)}.
            votes: {site: (documents, layers, neurons) bool}, True where the rule selects the neuron.
            tokens: number of tokens of the batch, without padding.
            rule: the rule that selected the votes.

        Returns:
            The statistics, on the device of the importance; on the CPU if the device has no float64.
        """
        device = sums_device(next(iter(importance.values())).device)
        return cls(
            documents=next(iter(importance.values())).shape[0],
            tokens=tokens,
            sum={site: values.to(device).sum(0, dtype=torch.float64) for site, values in importance.items()},
            minimum={site: values.amin(0).to(device) for site, values in importance.items()},
            votes={site: selected.sum(0).to(device) for site, selected in votes.items()},
            rule=rule,
        )

    def __add__(self, other: NeuronStatistics) -> NeuronStatistics:
        if self.rule != other.rule:
            raise ValueError(
                f"votes of different rules do not add: {self.rule} and {other.rule}; measure again with one rule"
            )
        if self.sum.keys() != other.sum.keys():
            raise ValueError(
                f"statistics of different sites do not add: {list(self.sum)} and {list(other.sum)}; "
                "measure the same sites"
            )
        for site in self.sum:
            if self.sum[site].shape != other.sum[site].shape:
                raise ValueError(
                    f"statistics of different models do not add: {site} is {tuple(self.sum[site].shape)} and "
                    f"{tuple(other.sum[site].shape)}; give statistics of one model"
                )
        return NeuronStatistics(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            sum={site: add(self.sum[site], other.sum[site]) for site in self.sum},
            minimum={
                site: torch.minimum(to_device(self.minimum[site], low.device), low)
                for site, low in other.minimum.items()
            },
            votes={site: add(self.votes[site], other.votes[site]) for site in self.votes},
            rule=self.rule,
        )

    def over(self, processes: Processes) -> NeuronStatistics:
        """Adds up the statistics of all processes, each of which has measured other documents.

        Args:
            processes: the processes of the run. All of them have to make this call.

        Returns:
            The statistics of all documents, on the CPU, the same in every process.
        """
        documents, tokens = processes.total(torch.tensor([self.documents, self.tokens])).tolist()
        # Every process needs the same order of the sites, and loading from a file may change it.
        sites = [site for site in SITES if site in self.sum]
        return NeuronStatistics(
            documents=documents,
            tokens=tokens,
            sum={site: processes.total(self.sum[site].cpu()) for site in sites},
            minimum={site: processes.least(self.minimum[site].cpu()) for site in sites},
            votes={site: processes.total(self.votes[site].cpu()) for site in sites},
            rule=self.rule,
        )

    def mean(self, site: str) -> Tensor:
        """Returns the mean importance over the documents.

        Args:
            site: a site that was measured.

        Returns:
            (layers, neurons) float64. It is NaN if there are no documents.
        """
        return self.sum[site] / self.documents

    def save(self, path: str | Path) -> None:
        """Writes the statistics to a safetensors file.

        Args:
            path: the file, which is replaced if it exists.

        Raises:
            OSError: the file cannot be written. An existing file stays as it was.
        """
        tensors = {f"{kind}.{site}": value for kind in KINDS for site, value in getattr(self, kind).items()}
        counts = {"documents": str(self.documents), "tokens": str(self.tokens), "rule": self.rule}
        save_tensors(path, tensors, FORMAT, counts)

    @classmethod
    def load(cls, path: str | Path) -> NeuronStatistics:
        """Reads statistics that `save` wrote.

        Args:
            path: the safetensors file.

        Returns:
            The statistics, on the CPU.

        Raises:
            CheckpointError: there is no such file, or it is damaged or holds no statistics of neurons.
        """
        with open_tensors(path, FORMAT, "statistics of neurons") as file:
            documents, tokens, rule = file.count("documents"), file.count("tokens"), file.text("rule")
            if not documents <= tokens or (documents == 0) != (tokens == 0):
                raise file.damaged(f"{documents:,} documents cannot have {tokens:,} tokens")
            sites: list[str] = [site for site in SITES if f"sum.{site}" in file.shapes]
            if not sites:
                raise file.damaged("it has no site")
            schemas = {f"{kind}.{site}": _schema(kind, site, documents) for kind in KINDS for site in sites}
            tensors = file.read(schemas)
        kinds = {kind: {site: tensors[f"{kind}.{site}"] for site in sites} for kind in KINDS}
        return cls(documents, tokens, rule=rule, **kinds)


def _schema(kind: str, site: str, documents: int) -> TensorSchema:
    """Returns what a tensor of a file with the statistics of this many documents is."""
    shape = ("layers", f"neurons of {site}")
    if kind == "votes":
        return TensorSchema((torch.int64,), shape, 0, documents)
    if documents:
        return TensorSchema((torch.float64,) if kind == "sum" else FLOATS, shape, 0)
    if kind == "sum":
        return TensorSchema((torch.float64,), shape, 0, 0)
    return TensorSchema(FLOATS, shape, torch.inf, finite=False)
