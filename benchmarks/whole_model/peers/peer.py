"""What the benchmark asks of another way to read and change a forward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from benchmarks.whole_model.peers.formulas import Cached


class Peer(Protocol):
    """A model as another package wraps it, and one document."""

    def forward(self) -> object:
        """Runs the plain forward, without the head."""

    def cache(self, names: Iterable[str]) -> Cached:
        """Runs the forward and returns tensors of every layer. names: GATE, HIDDEN and MIXED, or some of them."""

    def without(self, layer: int, neuron: int) -> Tensor:
        """Returns the last hidden states, (1, tokens, width), without one FFN neuron."""
