"""ActivationStatistics: in how many positions every FFN neuron is active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.neurons.widths import (
    Widths,
    differing,
    width_schemas,
    widths_from_tensors,
    widths_to_tensors,
    without_padding,
)
from pymultiling.runtime.device_copies import add, to_device
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.short_repr import short_repr
from pymultiling.runtime.storage import save_tensors
from pymultiling.runtime.tensor_files import TensorSchema, open_tensors

FORMAT = "pymultiling.activations/1"


class MostActive(NamedTuple):
    """The neurons that are active most often, as `ActivationStatistics.most_active` returns them.

    Attributes:
        counts: (n,) int64, in how many positions each of the n neurons is active, in descending order.
        share: fraction of all activations of all neurons that these n neurons have.
        by_layer: (layers,) int64, how many of the n neurons each layer has.
    """

    counts: Tensor
    share: float
    by_layer: Tensor

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """In how many positions every FFN neuron is active.

        active[l, n] = #{t : act(gate[t, n]) > 0} in layer l    (act(up) in an FFN without a gate)

    `a + b` are the counts over the positions of both, on the device of b. `a - b` removes the positions of b from a,
    such as those of a prompt from those of the prompt and its response. Counts of different models can be neither added
    nor subtracted (ValueError).

    Source: arXiv 2402.16438, 2403.09073, 2505.21505.

    Attributes:
        active: (layers, neurons) int64, number of positions in which the neuron is active.
        tokens: number of positions that were counted.
        widths: {"ffn": neurons of each layer} if layers differ. `active` is then as wide as the widest layer, and 0
            beyond the neurons of a narrower one. It is empty if all layers are as wide.

    Raises:
        ValueError: `active` is not int64 (layers, neurons), `tokens` is not an int of at least 0, or the widths do not
            fit.
    """

    active: Tensor
    tokens: int
    widths: Widths = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.active.ndim != 2 or self.active.dtype != torch.int64:
            raise ValueError(
                f"active must be int64 (layers, neurons), got {self.active.dtype} {tuple(self.active.shape)}"
            )
        if not isinstance(self.tokens, int):
            raise ValueError(f"tokens must be an int, got {self.tokens!r}")
        if self.tokens < 0:
            raise ValueError(
                f"tokens must be at least 0, got {self.tokens}: more positions were subtracted than there are"
            )
        object.__setattr__(self, "widths", differing(self.widths, {"ffn": self.active}))

    def __repr__(self) -> str:
        layers, neurons = self.active.shape
        return f"ActivationStatistics({self.tokens:,} positions; {layers} layers x {neurons:,} neurons)"

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""
        layers, width = self.active.shape
        return tuple(self.widths.get("ffn", (width,) * layers))

    @property
    def is_neuron(self) -> Tensor:
        """(layers, neurons) bool, False beyond the neurons of a layer that is narrower than the widest one."""
        return without_padding(torch.ones_like(self.active, dtype=torch.bool), self.widths.get("ffn"))

    @property
    def neurons(self) -> int:
        """How many neurons all layers have together."""
        return sum(self.layer_widths)

    @property
    def probability(self) -> Tensor:
        """(layers, neurons) float64: active / tokens, the fraction of the positions in which the neuron is active.

        It is clamped to 0 ... 1. A count of `a - b` can be below 0 or above its tokens, since forwards of different
        lengths round differently.

        Raises:
            ValueError: no positions were counted.
        """
        if self.tokens == 0:
            raise ValueError(
                "no positions were counted, so no neuron has a probability of being active: count some text"
            )
        return (self.active.double() / self.tokens).clamp(0, 1)

    @property
    def proportion(self) -> Tensor:
        """(layers,) float64: the fraction of a layer's neurons that are active, mean over the positions.

        Raises:
            ValueError: no positions were counted.
        """
        if not self.widths:
            return self.probability.mean(1)
        widths = torch.tensor(self.layer_widths, dtype=torch.float64)
        return self.probability.sum(1) / to_device(widths, self.active.device)

    def most_active(self, fraction: float = 0.01) -> MostActive:
        """Finds the neurons that are active most often.

        Of neurons with equal counts, the first by layer and index is preferred.

        Args:
            fraction: how many neurons, as a fraction of those of all layers, above 0 and at most 1. At least one neuron
                is returned.

        Returns:
            Their counts, their share of all activations, and how many of them each layer has.

        Raises:
            ValueError: `fraction` is outside its range.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        is_neuron = self.is_neuron
        flat = self.active[is_neuron]
        top = flat.argsort(descending=True, stable=True)[: max(1, round(fraction * self.neurons))]
        counts, total = flat[top], int(flat.sum())
        share = int(counts.sum()) / total if total else 0.0
        layers = torch.bincount(is_neuron.nonzero()[top, 0], minlength=self.active.shape[0])
        return MostActive(counts, share, layers)

    def __add__(self, other: ActivationStatistics) -> ActivationStatistics:
        _require_same_model({"the first": self, "the second": other})
        return ActivationStatistics(add(self.active, other.active), self.tokens + other.tokens, self.widths)

    def __sub__(self, other: ActivationStatistics) -> ActivationStatistics:
        _require_same_model({"the first": self, "the second": other})
        return ActivationStatistics(self.active - other.active, self.tokens - other.tokens, self.widths)

    def over(self, processes: Processes) -> ActivationStatistics:
        """Adds up the counts of all processes, each of which has counted other positions.

        Args:
            processes: the processes of the run. All of them have to make this call.

        Returns:
            The counts over all positions, on the CPU, the same in every process.
        """
        tokens = int(processes.total(torch.tensor(self.tokens)))
        return ActivationStatistics(processes.total(self.active.cpu()), tokens, self.widths)

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes the counts to a safetensors file.

        Args:
            path: the file, which is replaced if it exists.
            metadata: strings to store in the file, such as language="fr".

        Raises:
            OSError: the file cannot be written. An existing file stays as it was.
        """
        counts = {"tokens": str(self.tokens)}
        excess = self._excess()
        if excess:
            counts["excess"] = str(excess)
        tensors = {"active": self.active.cpu().contiguous()} | widths_to_tensors(self.widths)
        save_tensors(path, tensors, FORMAT, {**metadata, **counts})

    def _excess(self) -> int:
        """Returns by how much counts are below 0 or above the tokens, at most; 0 unless they are a difference."""
        if not self.active.numel():
            return 0
        least, most = (int(count) for count in self.active.aminmax())
        return max(0, -least, most - self.tokens)

    @classmethod
    def load(cls, path: str | Path) -> ActivationStatistics:
        """Reads counts that `save` wrote.

        Args:
            path: the safetensors file.

        Returns:
            The counts.

        Raises:
            CheckpointError: there is no such file, or it is damaged or holds no counts of activations.
        """
        with open_tensors(path, FORMAT, "counts of activations") as file:
            tokens = file.count("tokens")
            excess = file.count("excess") if "excess" in file.metadata else 0
            schema = TensorSchema((torch.int64,), ("layers", "neurons"), -excess, tokens + excess)
            tensors = file.read({"active": schema} | width_schemas(file, ("ffn",)))
            active = tensors["active"]
            return cls(active, tokens, widths_from_tensors(file, tensors, {"ffn": active}))


def stack_probabilities(statistics: Mapping[str, ActivationStatistics]) -> Tensor:
    """Stacks the probabilities of several languages.

    Args:
        statistics: {language: counts}.

    Returns:
        (layers, neurons, languages) float64, in the mapping's order.

    Raises:
        ValueError: the mapping is empty, the counts are of different models, or those of a language have no positions.
    """
    if not statistics:
        raise ValueError("no counts of activations were given: pass {language: ActivationStatistics}")
    _require_same_model(statistics)
    for language, counts in statistics.items():
        if counts.tokens == 0:
            raise ValueError(f"no positions of {language!r} were counted: count some text in it, or leave it out")
    return torch.stack([counts.probability for counts in statistics.values()], -1)


def _require_same_model(statistics: Mapping[str, ActivationStatistics]) -> None:
    shapes = {name: tuple(counts.active.shape) for name, counts in statistics.items()}
    first_name, first_shape = next(iter(shapes.items()))
    for name, shape in shapes.items():
        if shape != first_shape:
            raise ValueError(
                f"counts of different models cannot be combined: {first_name} has {first_shape[0]} layers x "
                f"{first_shape[1]} neurons, {name} {shape[0]} x {shape[1]}; give counts of one model"
            )
    first = statistics[first_name]
    for name, counts in statistics.items():
        if counts.widths != first.widths:
            raise ValueError(
                f"counts of different models cannot be combined: the layers of {first_name} have {first.layer_widths} "
                f"neurons, those of {name} {counts.layer_widths}; give counts of one model"
            )
