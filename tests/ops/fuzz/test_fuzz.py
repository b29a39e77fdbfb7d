"""Kernels and plain PyTorch give the same results, within the error budget, for drawn dtypes, layouts and values.

`make fuzz` runs the same comparison for as long as it is told. What it finds is kept in `found.py`.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from pymultiling.ops.registry import OPERATORS
from tests.ops.fuzz import comparison
from tests.ops.fuzz.cases import Columns
from tests.ops.fuzz.comparison import compare, supports
from tests.ops.fuzz.found import FOUND
from tests.ops.fuzz.strategies import STRATEGIES
from tests.support.backends import BACKENDS, running_on
from tests.support.operator_inputs import examples

# Examples of each operator. A call takes C++ kernels about a millisecond, but Triton's interpreter up to seconds.
EXAMPLES = {"cpp": 400, "triton": 12}
INTERPRETER_TAKES_SECONDS = ("nearest_neighbors", "qk_importance", "qk_estimate")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning"),  # from NumPy in Triton's interpreter
    pytest.mark.skipif(torch.cuda.is_available(), reason="cases are on the CPU"),
]


@pytest.fixture(params=[name for name in BACKENDS if name != "torch"])
def kernels(request):
    """Yields the name of each backend that has kernels and that this machine can run."""
    with running_on(request.param) as name:
        yield name


def test_every_operator_with_kernels_is_drawn():
    assert set(STRATEGIES) == {name for name, operator in OPERATORS.items() if operator.kernels}


@pytest.mark.parametrize("operator", STRATEGIES)
def test_kernels_equal_plain_pytorch(kernels, operator):
    if kernels == "triton" and operator in INTERPRETER_TAKES_SECONDS:
        pytest.skip("the interpreter takes seconds for a call: `make fuzz` runs it")

    @settings(examples, max_examples=EXAMPLES[kernels])
    @given(case=STRATEGIES[operator])
    def equal(case):
        if supports(case, kernels):
            compare(case, kernels)

    equal()


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.operator)
def test_what_the_fuzz_has_found_stays_mended(kernels, case):
    if not supports(case, kernels):
        pytest.skip("the backend has no kernel for this call")
    compare(case, kernels)


@pytest.mark.parametrize("wrong", [1.001, torch.inf, torch.nan])
def test_a_wrong_number_is_found(monkeypatch, wrong):
    """The comparison fails if one number of a result is off by more than the budget."""
    results = comparison._results

    def one_wrong(case, arguments, backend):
        energy, *others = results(case, arguments, backend)
        if backend == "cpp":
            energy.view(-1)[energy.argmax()] *= wrong
        return energy, *others

    compare(Columns(), "cpp")
    monkeypatch.setattr(comparison, "_results", one_wrong)
    with pytest.raises(AssertionError):
        compare(Columns(), "cpp")
