"""NeuronStatistics: sums, minima, votes and ranks of importance over documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pymultiling.neurons.ranking import TOP_FRACTIONS, count_top
from pymultiling.neurons.sites import SITES
from pymultiling.neurons.widths import Widths, differing, width_schemas, widths_from_tensors, widths_to_tensors
from pymultiling.runtime.device_copies import add, sums_device, to_device
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import FLOATS, TensorSchema, open_tensors

FORMAT = "pymultiling.statistics/1"
KINDS = ("sum", "minimum", "votes", "top")  # a file has a tensor KIND.SITE for each; earlier files lack "top"


@dataclass
class NeuronStatistics:
    """Statistics of every neuron's importance over some documents.

    `a + b` are the statistics of the documents of both: `minimum`, `votes`, `top` and the counts bit for bit, `sum` to
    rounding. They are on the device of b. Statistics of different rules, sites or models cannot be added (ValueError).
    If one of them has no `top`, the sum has none.

    Attributes:
        documents: number of documents.
        tokens: number of tokens, without padding and what a chat template adds.
        sum: {site: (layers, neurons) float64}, sum of the importance over the documents.
        minimum: {site: (layers, neurons)}, smallest importance in a document. It is inf if there are no documents.
        votes: {site: (layers, neurons) int64}, number of documents in which the rule selected the neuron.
        rule: the rule that selected the votes, as `TopK.rule` or `Threshold.rule` returns it. `detect` appends "; " and
            how importance is defined: the score, the zeroing, whether q and k are estimated, and whether the texts are
            messages of the chat template.
        top: {site: (6, layers, neurons) int32}, number of documents in which the neuron is among the most important
            0.5, 1, 2, 5, 10 and 20 % of its layer and site, in this order. A neuron whose importance in a document is 0
            is not among them. It is empty if the statistics come from a file of a version that did not count them.
        widths: {site: neurons of each layer}, for the sites whose layers differ. Tensors are as wide as the widest
            layer. Beyond the neurons of a narrower one, `sum`, `votes` and `top` are 0. It is empty for models whose
            layers are all as wide.

    Raises:
        ValueError: the widths do not fit the tensors.
    """

    documents: int
    tokens: int
    sum: dict[str, Tensor]
    minimum: dict[str, Tensor]
    votes: dict[str, Tensor]
    rule: str
    top: dict[str, Tensor] = field(default_factory=dict)
    widths: Widths = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.widths = differing(self.widths, self.sum)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{site} {' x '.join(map(str, values.shape))}" for site, values in self.sum.items())
        size = f"{self.documents:,} documents, {self.tokens:,} tokens"
        return f"NeuronStatistics({size}; {shapes}; {self.rule}{'' if self.top else '; without top'})"

    @classmethod
    def of_nothing(
        cls,
        widths: Mapping[str, int],
        layers: int,
        rule: str,
        dtype: torch.dtype = torch.float32,
        layer_widths: Widths | None = None,
    ) -> NeuronStatistics:
        """Makes the statistics of no documents, the neutral element of +.

        Args:
            widths: {site: neurons of the widest layer} of the model.
            layers: number of layers of the model.
            rule: the rule that selects the votes.
            dtype: dtype of the importance.
            layer_widths: {site: neurons of each layer} of the model. None: all layers are as wide.

        Returns:
            Statistics with `documents` and `tokens` 0, `sum`, `votes` and `top` 0, and `minimum` inf.
        """
        shapes = {site: (layers, width) for site, width in widths.items()}
        return cls(
            documents=0,
            tokens=0,
            sum={site: torch.zeros(shape, dtype=torch.float64) for site, shape in shapes.items()},
            minimum={site: torch.full(shape, torch.inf, dtype=dtype) for site, shape in shapes.items()},
            votes={site: torch.zeros(shape, dtype=torch.int64) for site, shape in shapes.items()},
            rule=rule,
            top={site: torch.zeros((len(TOP_FRACTIONS), *shape), dtype=torch.int32) for site, shape in shapes.items()},
            widths=layer_widths or {},
        )

    @classmethod
    def of_batch(
        cls,
        importance: Mapping[str, Tensor],
        votes: Mapping[str, Tensor],
        tokens: int,
        rule: str,
        widths: Widths | None = None,
    ) -> NeuronStatistics:
        """Makes the statistics of one batch of documents.

        Args:
            importance: {site: (documents, layers, neurons)}.
            votes: {site: (documents, layers, neurons) bool}, True where the rule selects the neuron.
            tokens: number of tokens of the batch, without padding.
            rule: the rule that selected the votes.
            widths: {site: neurons of each layer}, for the sites whose layers differ.

        Returns:
            The statistics, on the device of the importance; on the CPU if the device has no float64.
        """
        counts = {site: selected.sum(0) for site, selected in votes.items()}
        return cls.of_counts(importance, counts, count_top(importance, widths), tokens, rule, widths)

    @classmethod
    def of_counts(
        cls,
        importance: Mapping[str, Tensor],
        votes: Mapping[str, Tensor],
        top: Mapping[str, Tensor],
        tokens: int,
        rule: str,
        widths: Widths | None = None,
    ) -> NeuronStatistics:
        """Makes the statistics of one batch of documents whose votes and ranks are counted already.

        Args:
            importance: {site: (documents, layers, neurons)}.
            votes: {site: (layers, neurons)}, in how many documents the rule selects the neuron.
            top: {site: (6, layers, neurons)}, as the attribute `top`.
            tokens: number of tokens of the batch, without padding.
            rule: the rule that selected the votes.
            widths: as in `of_batch`.

        Returns:
            The statistics, on the device of the importance; on the CPU if the device has no float64.
        """
        device = sums_device(next(iter(importance.values())).device)
        return cls(
            documents=next(iter(importance.values())).shape[0],
            tokens=tokens,
            sum={site: values.to(device).sum(0, dtype=torch.float64) for site, values in importance.items()},
            minimum={site: values.amin(0).to(device) for site, values in importance.items()},
            votes={site: count.to(device, torch.int64) for site, count in votes.items()},
            rule=rule,
            top={site: count.to(device, torch.int32) for site, count in top.items()},
            widths=widths or {},
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
        if self.widths != other.widths:
            raise ValueError(
                f"statistics of different models do not add: where layers differ in width, they have {self.widths} and "
                f"{other.widths} neurons; give statistics of one model"
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
            top={site: add(self.top[site], other.top[site]) for site in self.top} if other.top else {},
            widths=self.widths,
        )

    def over(self, processes: Processes) -> NeuronStatistics:
        """Adds up the statistics of all processes, each of which has measured other documents.

        Args:
            processes: the processes of the run. All of them have to make this call.

        Returns:
            The statistics of all documents, on the CPU, the same in every process.
        """
        facts = torch.tensor([self.documents, self.tokens, int(not self.top)])
        documents, tokens, without_top = processes.total(facts).tolist()
        # Every process needs the same order of the sites, and loading from a file may change it.
        sites: list[str] = [site for site in SITES if site in self.sum]
        sums = {site: processes.total(self.sum[site].cpu()) for site in sites}
        minimum = {site: processes.least(self.minimum[site].cpu()) for site in sites}
        # Votes and ranks are copied from the device together, since the host waits for every copy.
        counts = {site: self.votes[site].unsqueeze(0) for site in sites}
        if not without_top:
            counts = {site: torch.cat([votes, self.top[site]]) for site, votes in counts.items()}
        totals = {site: processes.total(count.cpu()) for site, count in counts.items()}
        return NeuronStatistics(
            documents=documents,
            tokens=tokens,
            sum=sums,
            minimum=minimum,
            votes={site: total[0] for site, total in totals.items()},
            rule=self.rule,
            top={} if without_top else {site: total[1:].int() for site, total in totals.items()},
            widths=self.widths,
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
        save_tensors(path, tensors | widths_to_tensors(self.widths), FORMAT, counts)

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
            kinds = KINDS if any(name.startswith("top.") for name in file.shapes) else KINDS[:-1]
            schemas = {f"{kind}.{site}": _schema(kind, site, documents) for kind in kinds for site in sites}
            tensors = file.read(schemas | width_schemas(file, sites))
            values = {kind: {site: tensors[f"{kind}.{site}"] for site in sites} for kind in kinds}
            return cls(documents, tokens, rule=rule, widths=widths_from_tensors(file, tensors, values["sum"]), **values)


def _schema(kind: str, site: str, documents: int) -> TensorSchema:
    """Returns what a tensor of a file with the statistics of this many documents is."""
    shape = ("layers", f"neurons of {site}")
    if kind == "votes":
        return TensorSchema((torch.int64,), shape, 0, documents)
    if kind == "top":
        return TensorSchema((torch.int32,), (len(TOP_FRACTIONS), *shape), 0, documents)
    if documents:
        return TensorSchema((torch.float64,) if kind == "sum" else FLOATS, shape, 0)
    if kind == "sum":
        return TensorSchema((torch.float64,), shape, 0, 0)
    return TensorSchema(FLOATS, shape, torch.inf, finite=False)
