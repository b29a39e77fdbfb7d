"""qk_importance and qk_estimate with heads as wide as those of models, in their Triton kernels as compiled for a GPU.

The kernels run in the interpreter of tests/ptx, from its archives, because to compile them takes minutes. The other
tests have narrow heads, for which Triton chooses other layouts, instructions and copies.
"""

from dataclasses import replace

import pytest
import torch

from tests.ops import test_qk_estimate as estimate
from tests.ops import test_qk_importance as importance
from tests.support.qk_cases import Case

HALF = torch.bfloat16
CASES = {
    "128": (Case(batch=1, kv_heads=1, length=70, size=128), HALF),
    "64, norm, window, padding": (
        Case(batch=1, kv_heads=1, length=70, size=64, norm=True, window=40, padding="some"),
        HALF,
    ),
    "128, norm, soft cap": (Case(batch=1, kv_heads=1, length=40, size=128, norm=True, softcap=2.0), HALF),
    "64, float32": (Case(batch=1, kv_heads=1, length=70, size=64), torch.float32),
}


@pytest.fixture(autouse=True)
def only_interpreted(pytestconfig):
    if pytestconfig.option.ptx is None:
        pytest.skip("runs with --ptx")


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize("case, dtype", CASES.values(), ids=CASES)
def test_importance_equals_the_reference(backend, case, dtype):
    importance.check(case, dtype, backend)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize("case, dtype", CASES.values(), ids=CASES)
def test_the_estimate_equals_the_reference_where_draws_cannot_move(backend, case, dtype):
    one_head = replace(case, group=1)  # has fewer draws
    estimate.check(estimate.without_ties(one_head, dtype), dtype, backend)
