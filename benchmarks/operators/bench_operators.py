"""Every operator of the registry at the sizes of a layer, in every backend for the CPU."""

import pytest
import torch

from benchmarks.operators.inputs import Layer, inputs
from pymultiling.ops.registry import OPERATORS

SETS = 8
# Theirs are wide sums of float32 products, whatever the dtype.
FLOAT32_ALONE = [name for name in OPERATORS if name.endswith("importance") or name == "qk_estimate"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(time_operator, operator, backend, shape, dtype):
    if dtype != torch.float32 and operator in FLOAT32_ALONE:
        pytest.skip("timed in float32 alone")
    torch.manual_seed(0)
    ids = torch.zeros(shape.length, dtype=torch.int64)
    layer = Layer(shape, 1, ids, SETS, torch.arange(shape.length) % SETS, dtype)
    timed = next(one for one in inputs(operator, layer) if one.timed)
    if backend == "torch.compile" and not timed.compiles:
        pytest.skip("the reference loops, or its sizes depend on values: torch.compile would unroll it")
    time_operator(operator, *timed.arguments)
