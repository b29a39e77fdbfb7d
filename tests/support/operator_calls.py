"""Small calls of every operator of the registry, for tests that hold for all operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.cases import Case
from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.shapes import Shape
from pymultiling.ops.registry import OPERATORS

SMALL = Shape("small", hidden=512, layers=1, heads=8, kv_heads=2, ffn=1000, length=70)
# The widths are no multiples of a vector or a tile, and the rows of 16 bits begin at addresses that are not aligned.
ODD = Shape("odd", hidden=24, layers=1, heads=4, kv_heads=2, ffn=37, length=5)

# {operator: changes of its arguments, by name, under which other code runs}. A function computes a change from the
# unchanged arguments.
CHANGES = {
    "gated_ffn": [{"up": None}, {"up": None, "activation": "relu"}],
    "mask_neurons": [{"scale": 2.0}, {"scale": 1.0, "values": lambda named: named["x"][0].clone()}],
    "qk_importance": [
        {"q_plain": None, "k_plain": None, "cos": None, "sin": None},
        {"cos": None, "sin": None, "window": 3, "softcap": 2.0},
        {
            "q_growth": lambda named: torch.full_like(named["q"], 0.25),
            "k_growth": lambda named: torch.full_like(named["k"], 0.25),
        },
        {
            "causal": False,
            "window": 3,
            "sinks": lambda named: named["q"].new_zeros(named["q"].shape[1]),
            "bias": lambda named: named["q"].new_ones(1, *named["q"].shape[1:3], named["q"].shape[2]),
        },
    ],
}
CHANGES["mask_neurons_"], CHANGES["qk_estimate"] = CHANGES["mask_neurons"], CHANGES["qk_importance"]


@dataclass(frozen=True)
class Call:
    """A call of a registered torch operator.

    Attributes:
        operator: name of the operator.
        named: {argument of the schema: value}.
    """

    operator: str
    named: dict[str, object]

    @property
    def arguments(self) -> tuple[object, ...]:
        """The arguments of the torch operator."""
        return tuple(self.named.values())

    @property
    def reference_arguments(self) -> tuple[object, ...]:
        """The arguments of the operator's reference."""
        return OPERATORS[self.operator].python_arguments(self.arguments)

    def strided(self) -> Call:
        """Returns the same call with matrices of floating-point numbers whose last dimension is not contiguous."""
        return Call(self.operator, {name: _strided(value) for name, value in self.named.items()})


def layer_calls(operator: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Call]:
    """Returns calls of an operator for random inputs of a layer: two documents with padding between their tokens."""
    torch.manual_seed(0)
    ids = torch.tensor([0, -1, 1], device=device).repeat_interleave(shape.length)
    layer = Layer(shape, 2, ids, 2, ids, dtype, device, masked=0.3)
    inputs = [case for case in make_inputs(operator, layer) if case.variant or case.compared or not case.loops]
    return [Call(operator, Case(operator, "", x.arguments).named) for x in inputs]


def changed_calls(operator: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Call]:
    """Returns the first of `layer_calls` with each of the operator's CHANGES."""
    named = layer_calls(operator, shape, dtype, device)[0].named
    return [
        Call(operator, named | {name: x(named) if callable(x) else x for name, x in changes.items()})
        for changes in CHANGES[operator]
    ]


def _strided(x: object) -> object:
    """Returns a copy of a tensor whose last two dimensions are exchanged in memory, if it has two and holds floats."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        return x
    return x.mT.contiguous().mT
