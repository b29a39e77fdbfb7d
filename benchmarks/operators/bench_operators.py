"""Times every operator at the sizes of a layer, on every backend for the CPU."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.operators.inputs import Layer, make_inputs
from benchmarks.operators.shapes import Shape
from pymultiling.ops.registry import OPERATORS

SETS = 8


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(
    time_operator: Callable[..., None], operator: str, backend: str, shape: Shape, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ids = torch.zeros(shape.length, dtype=torch.int64)
    layer = Layer(shape, 1, ids, SETS, torch.arange(shape.length) % SETS, dtype)
    timed_input = next(candidate for candidate in make_inputs(operator, layer) if candidate.timed)
    if timed_input.loops and (backend == "torch.compile" or dtype != torch.float32):
        pytest.skip("if the reference loops in Python, for seconds, only float32 is timed, and not torch.compile")
    time_operator(operator, *timed_input.arguments)
