"""Values that are zero take their own share out of the attention's output, and change nothing else in it.

The importance of a v neuron is read off the input of o_proj, which is a sum of values: where a value is zero, its share
is zero, and the shares of the others stay. That holds in any attention that only sums values up, with whatever
probabilities. It does not hold if the values, or the sum, pass a norm, or if values come from somewhere else as well.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pymultiling.models.decoder import AttentionLayer
from pymultiling.models.linear import Projection
from pymultiling.probes.hooks import Hooks
from pymultiling.probes.verification import advice
from pymultiling.probes.verification.report import Comparisons
from pymultiling.probes.verification.rounding import column_norms, roundoff


class ValuesWatch:
    """Watches one layer in a forward whose last document is the first one again: its twin.

    The twin has the queries, keys and values of the first document, but a random half of the values is zero in every
    layer another half. After the comparison the twin gets the first document's input of o_proj, so that the layers
    after it see two equal documents.

    Args:
        layer: the layer.
        v: its value projection.
        index: its number.
        names: the names of modules, for messages.
        comparisons: gets the comparison.
        documents: how many documents the forward has.
    """

    def __init__(
        self,
        layer: AttentionLayer,
        v: Projection,
        index: int,
        names: dict[nn.Module, str],
        comparisons: Comparisons,
        documents: int,
    ):
        self._v, self._projections = v, {projection.module for _, projection, _ in layer.projections()}
        self._layer, self._names, self._comparisons, self._documents = layer, names, comparisons, documents
        generator = torch.Generator().manual_seed(index)
        self._is_zero = torch.rand(v.width, generator=generator) < 0.5
        self._changed: set[nn.Module] = set()

    def change(self, hooks: Hooks) -> None:
        """Adds the hooks. Those that compare other things come after them."""
        layer = self._layer
        for module in self._projections:
            hooks.after(module, self._make_twin)
        hooks.before(layer.o, self._compare_twin)

    def _make_twin(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if output.shape[0] != self._documents:
            return None
        twin = output[:1]
        if module is self._v.module:
            rows = self._v.row_indices()[self._is_zero]
            twin = twin.index_fill(-1, rows.to(output.device), 0)
        self._changed.add(module)
        return torch.cat([output[:-1], twin])

    def _compare_twin(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        with self._comparisons.surviving(["values"], self._names[self._layer.attention]):
            return self._compare(args)
        return None

    def _compare(self, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Compares the input of o_proj.

        Both documents have the same attention scores up to rounding, which large scores can make larger. So a share
        that stays may differ by the root of the unit roundoff, which is half of the dtype's digits.
        """
        layer = self._layer
        if len(self._changed) < len(self._projections):
            return None
        attended = args[0].view(self._documents, -1, args[0].shape[-1])
        first, twin = attended[0], attended[-1]
        by_head = self._is_zero.view(layer.kv_heads, layer.value_size)
        is_zero = by_head.repeat_interleave(layer.heads // layer.kv_heads, 0).flatten().to(first.device)
        size = column_norms(first)
        error = column_norms(twin - first.masked_fill(is_zero, 0))
        tolerance = (math.sqrt(roundoff(first.dtype)) * size).masked_fill(is_zero, 0)
        subject = f"{self._names[layer.attention]} does more than to sum up what {self._names[self._v.module]} returns"
        self._comparisons.compare("values", subject, advice.OUTPUT, error, tolerance, size)
        return torch.cat([attended[:-1], attended[:1]]).view(args[0].shape), *args[1:]
