"""The parts of importance that depend on weights alone. Each is computed once, while the weights do not change."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.sums import upcast
from pymultiling.models.experts import Experts
from pymultiling.models.linear import Linear
from pymultiling.models.routing import ExpertsModule
from pymultiling.models.tensor_parallel import local_weight
from pymultiling.ops import column_energy, value_gram


class WeightProducts:
    """Caches norms and inner products of the columns of weights, by module."""

    def __init__(self) -> None:
        self._norms: dict[Linear | ExpertsModule, Tensor] = {}
        self._value_grams: dict[Linear, Tensor] = {}
        self._expert_grams: dict[ExpertsModule, list[tuple[Tensor, Tensor]]] = {}
        self._grams: dict[tuple[Linear, int, int], tuple[Tensor, Tensor]] = {}

    def column_norms(self, linear: Linear, inputs: int) -> Tensor:
        """Returns (1, inputs): ||W[:, n]||^2 of every column; `inputs` is the number of columns in this process."""
        if linear not in self._norms:
            self._norms[linear] = column_energy(local_weight(linear, inputs), count=1)
        return self._norms[linear]

    def expert_norms(self, experts: Experts) -> Tensor:
        """Returns (E I,): ||W[:, n]||^2 of the I columns of the down projection of each of E experts."""
        if experts.module not in self._norms:
            self._norms[experts.module] = experts.column_norms()
        return self._norms[experts.module]

    def value_gram(self, linear: Linear, inputs: int, heads: int, size: int) -> Tensor:
        """Returns (heads, size, G, G): the inner products of the G columns that belong to the same value neuron.

        inputs: as in `column_norms`. heads: number of key-value heads in this process. size: of a head.
        """
        if linear not in self._value_grams:
            self._value_grams[linear] = value_gram(local_weight(linear, inputs), heads, size)
        return self._value_grams[linear]

    def grams(self, linear: Linear, inputs: int, multiplier: Tensor, heads: int, size: int) -> tuple[Tensor, Tensor]:
        """Returns what `value_gram` returns, for the weight and for the weight whose rows are scaled.

        multiplier: (outputs,), the factors of the rows: those of a norm that follows.
        """
        key = linear, heads, size
        if key not in self._grams:
            weight = local_weight(linear, inputs)
            scaled_weight = upcast(weight) * upcast(multiplier)[:, None]
            self._grams[key] = value_gram(weight, heads, size), value_gram(scaled_weight, heads, size)
        return self._grams[key]

    def expert_grams(self, experts: Experts, multiplier: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns for each expert what `grams` returns, (I, 1, 1, 1) each, for its down projection."""
        if experts.module not in self._expert_grams:
            self._expert_grams[experts.module] = [
                (value_gram(weight, experts.size, 1), value_gram(scaled, experts.size, 1))
                for weight in experts.down_weights()
                for scaled in [upcast(weight) * upcast(multiplier)[:, None]]
            ]
        return self._expert_grams[experts.module]

    def clear(self) -> None:
        """Empties the cache. Afterwards the weights may change."""
        self._norms.clear()
        self._value_grams.clear()
        self._expert_grams.clear()
        self._grams.clear()
