"""Every operator of the registry at the sizes of a layer, in every backend for the CPU."""

import pytest
import torch

from benchmarks.operators.inputs import Layer, make_inputs
from pymultiling.ops.registry import OPERATORS

SETS = 8


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(time_operator, operator, backend, shape, dtype):
    torch.manual_seed(0)
    ids = torch.zeros(shape.length, dtype=torch.int64)
    layer = Layer(shape, 1, ids, SETS, torch.arange(shape.length) % SETS, dtype)
    timed = next(one for one in make_inputs(operator, layer) if one.timed)
    if timed.loops and (backend == "torch.compile" or dtype != torch.float32):
        pytest.skip("the reference loops in Python: it is timed in float32 alone, and torch.compile would unroll it")
    time_operator(operator, *timed.arguments)
