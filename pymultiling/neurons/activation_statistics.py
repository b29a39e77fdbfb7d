"""How often every FFN neuron is active: counts over positions, a commutative group under +."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.errors import CheckpointError
from pymultiling.runtime.processes import Processes
from pymultiling.runtime.storage import load_tensors, save_tensors

FORMAT = "pymultiling.activations/1"


class MostActive(NamedTuple):
    """The neurons that are active most often.

    Attributes:
        counts: (n,) int64, their counts, descending: the curve of top frequencies.
        share: of all activations of all neurons, the part that is theirs.
        by_layer: (layers,) int64, how many of them each layer has.
    """

    counts: Tensor
    share: float
    by_layer: Tensor


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """In how many positions every FFN neuron was active.

        active[l, n] = #{t : act(gate[t, n]) > 0} in layer l    (act(up) in a plain FFN)

    `a + b` is what one pass over both would give; `a - b` takes the positions of b out of a, such as those of a prompt out
    of those of the prompt and its response. Source: arXiv 2402.16438, 2403.09073, 2505.21505.

    Attributes:
        active: (layers, neurons) int64.
        tokens: how many positions were looked at.
    """

    active: Tensor
    tokens: int

    def __post_init__(self) -> None:
        if self.active.ndim != 2 or self.active.dtype != torch.int64:
            raise ValueError(
                f"active must be int64 (layers, neurons), got {self.active.dtype} {tuple(self.active.shape)}"
            )
        if not isinstance(self.tokens, int):
            raise ValueError(f"tokens must be an int, got {self.tokens!r}")
        if self.tokens < 0:
            raise ValueError(
                f"tokens must be at least 0, got {self.tokens}: more positions were taken out than there are"
            )

    @property
    def probability(self) -> Tensor:
        """(layers, neurons) float64: active / tokens.

        Between 0 and 1 also where a - b has a count below 0 or above its tokens, because two forwards of different lengths
        were rounded differently.

        Raises:
            ValueError: no position was counted.
        """
        if self.tokens == 0:
            raise ValueError(
                "no positions were counted, so no neuron has a probability of being active: count some text"
            )
        return (self.active.double() / self.tokens).clamp(0, 1)

    @property
    def proportion(self) -> Tensor:
        """(layers,) float64: the part of a layer's neurons that are active, in the mean over the positions."""
        return self.probability.mean(1)

    def most_active(self, fraction: float = 0.01) -> MostActive:
        """The fraction of all neurons (of all layers) that are active most often; of equals the first by layer and index.

        Raises:
            ValueError: the fraction is not above 0 and at most 1.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
        flat = self.active.flatten()
        places = flat.argsort(descending=True, stable=True)[: max(1, round(fraction * len(flat)))]
        counts, everything = flat[places], int(flat.sum())
        share = int(counts.sum()) / everything if everything else 0.0
        layers = torch.bincount(places // self.active.shape[1], minlength=self.active.shape[0])
        return MostActive(counts, share, layers)

    def __add__(self, other: ActivationStatistics) -> ActivationStatistics:
        _require_same_model({"the first": self, "the second": other})
        return ActivationStatistics(self.active + other.active, self.tokens + other.tokens)

    def __sub__(self, other: ActivationStatistics) -> ActivationStatistics:
        _require_same_model({"the first": self, "the second": other})
        return ActivationStatistics(self.active - other.active, self.tokens - other.tokens)

    def over(self, processes: Processes) -> ActivationStatistics:
        """Those of all processes together, each with positions of its own."""
        return ActivationStatistics(processes.total(self.active), int(processes.total(torch.tensor(self.tokens))))

    def save(self, path: str | Path, **metadata: str) -> None:
        """Writes a safetensors file; metadata are strings kept beside the counts."""
        save_tensors(path, {"active": self.active.cpu().contiguous()}, FORMAT, {**metadata, "tokens": str(self.tokens)})

    @classmethod
    def load(cls, path: str | Path) -> ActivationStatistics:
        """Reads what `save` wrote; CheckpointError where the file is damaged or something else."""
        tensors, metadata = load_tensors(path, FORMAT, "counts of activations")
        try:
            return cls(tensors["active"], int(metadata["tokens"]))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): count again") from None


def stack_probabilities(statistics: Mapping[str, ActivationStatistics]) -> Tensor:
    """(layers, neurons, languages) float64, in the mapping's order.

    Raises:
        ValueError: there are none, they are of different models, or no position of a language was counted.
    """
    if not statistics:
        raise ValueError("no counts of activations were given: pass {language: ActivationStatistics}")
    _require_same_model(statistics)
    for language, one in statistics.items():
        if one.tokens == 0:
            raise ValueError(f"no positions of {language!r} were counted: count some text in it, or leave it out")
    return torch.stack([one.probability for one in statistics.values()], -1)


def _require_same_model(statistics: Mapping[str, ActivationStatistics]) -> None:
    shapes = {name: tuple(one.active.shape) for name, one in statistics.items()}
    first, shape = next(iter(shapes.items()))
    for name, other in shapes.items():
        if other != shape:
            raise ValueError(
                f"counts of different models do not go together: {first} has {shape[0]} layers x {shape[1]} neurons, "
                f"{name} {other[0]} x {other[1]}"
            )
