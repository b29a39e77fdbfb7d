"""What importance takes from a model's weights alone: computed once, as long as they do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from pymultiling.mathematics.sums import upcast
from pymultiling.models.experts import Experts
from pymultiling.models.spread import weight_for
from pymultiling.ops import column_energy, value_gram

Found = TypeVar("Found")


class FromWeights:
    """Column norms and products of columns, by module."""

    def __init__(self) -> None:
        self._known: dict[tuple, Tensor | list[Tensor]] = {}

    def column_norms(self, linear: nn.Module, inputs: int) -> Tensor:
        """||W[:, n]||^2 of every column that so many inputs meet: the energy of the weight's columns over its rows."""
        return self._once(("norms", linear), lambda: column_energy(weight_for(linear, inputs), count=1))

    def expert_norms(self, experts: Experts) -> Tensor:
        """(E I,): the same of every expert's down projection."""
        return self._once(("norms", experts.module), experts.column_norms)

    def value_gram(self, linear: nn.Module, inputs: int, heads: int, size: int) -> Tensor:
        """Products of the columns that belong to a value neuron."""
        return self._once(("gram", linear), lambda: value_gram(weight_for(linear, inputs), heads, size))

    def grams(self, linear: nn.Module, inputs: int, multiplier: Tensor, heads: int, size: int) -> list[Tensor]:
        """Products of the weight's columns, as they are and times a norm's multiplier."""

        def compute() -> list[Tensor]:
            weight = weight_for(linear, inputs)
            return [value_gram(w, heads, size) for w in (weight, upcast(weight) * upcast(multiplier)[:, None])]

        return self._once(("grams", linear, heads, size), compute)

    def clear(self) -> None:
        self._known.clear()

    def _once(self, key: tuple, compute: Callable[[], Found]) -> Found:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]
