"""Compares qk_importance's CUDA kernel on emulated blocks with the float64 reference, within the error budget."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.registry import OPERATORS
from tests.cuda import emulated
from tests.cuda.emulated import BACKWARDS, DISTURBS, TRUNCATES
from tests.support.error_budget import assert_within_budget
from tests.support.operator_inputs import examples
from tests.support.qk_cases import Case, to_dtype

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")
SMALL = Case(batch=1, kv_heads=1, length=70, size=32)

reference = OPERATORS["qk_importance"].reference()


def make_problem(case: Case) -> QKProblem:
    """Returns a case in bfloat16, the only dtype of the kernel."""
    return case.problem(torch.bfloat16)


def assert_equals_the_reference(problem: QKProblem, **options: int) -> None:
    """Checks that the kernel's error against float64 is within the budget. `options`: as of emulated.qk_importance."""
    plain, exact = reference(problem), reference(to_dtype(problem, torch.float64))
    for actual, p, e in zip(emulated.qk_importance(problem, **options), plain, exact):
        assert_within_budget("qk_importance", actual, p, e, (problem,))


KINDS = {
    "half": Case(length=70, size=64),
    "interleaved": Case(length=70, size=64, rotation="interleaved"),
    "partial": Case(length=70, size=64, rotation="partial"),
    "no rotation": replace(SMALL, rotation=None),
    "after the rotation": replace(SMALL, before=False),
    "heads of 128, three to a key head": Case(batch=1, kv_heads=1, group=3, length=80, size=128),
    "heads of 96": replace(SMALL, size=96, length=40),
    "heads of 256": replace(SMALL, size=256, length=40, group=1),
    "one query head per key head": replace(SMALL, kv_heads=2, group=1),
    "window": Case(length=80, size=32, window=20),
    "window of several tiles of keys": replace(SMALL, group=1, length=200, window=70),
    "left padding": Case(length=70, size=32, padding="left"),
    "right padding, window": Case(length=70, size=32, padding="right", window=40),
    "some padding": Case(length=70, size=32, padding="some", rotation="interleaved"),
    "a document of padding": Case(length=50, size=32, padding="whole document"),
    "tables in float32": replace(SMALL, rotation="interleaved", float32_tables=True),
}


@pytest.mark.parametrize("case", KINDS.values(), ids=KINDS)
def test_equals_the_reference(case):
    assert_equals_the_reference(make_problem(case))


@examples
@given(
    st.builds(
        Case,
        batch=st.integers(1, 2),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 3),
        length=st.sampled_from([1, 2, 5, 16, 17, 33, 50]),
        size=st.just(32),
        rotation=st.sampled_from(["half", "interleaved", "partial", None]),
        float32_tables=st.booleans(),
        before=st.booleans(),
        window=st.sampled_from([None, 1, 3, 20, 40]),
        padding=st.sampled_from([None, "left", "right", "some", "whole document"]),
        seed=st.integers(0, 99),
    )
)
def test_equals_the_reference_for_any_small_case(case):
    assert_equals_the_reference(make_problem(case))


EXTREME_CASES = {
    "key bias 10": replace(SMALL, key_bias=10),
    "key bias 300": replace(SMALL, key_bias=300, rotation=None),
    "key bias 300, no rotation, zeroed in q and k": replace(SMALL, key_bias=300, rotation=None, before=False),
    "key bias 300 under the rotation": replace(SMALL, key_bias=300),
    "attention scores of 10": replace(SMALL, query_factor=3),
    "attention scores of 100": replace(SMALL, query_factor=40),
    "attention scores of 1e4": Case(query_factor=4e3, length=70, size=32),
    "attention scores of 0.4": replace(SMALL, query_factor=0.1),
    "attention scores of 4e-4": replace(SMALL, query_factor=1e-4),
}


@pytest.mark.parametrize("case", EXTREME_CASES.values(), ids=EXTREME_CASES)
def test_equals_the_reference_for_extreme_inputs(case):
    assert_equals_the_reference(make_problem(case))


@pytest.mark.parametrize("strength", [12.0, 60.0, 400.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_equals_the_reference_if_a_neuron_dominates_its_head(strength, sign):
    """Neuron 3 of q and k causes almost all attention scores. Each neuron's error is within the budget."""
    case = Case(batch=1, kv_heads=1, group=1, length=50, size=32, rotation=None)
    problem = case.problem()
    problem.q[..., 3], problem.k[..., 3] = strength, sign * torch.linspace(-1, 1, case.length).square()
    problem = to_dtype(problem._replace(q_plain=problem.q, k_plain=problem.k), torch.bfloat16)
    assert all(int(exact.argmax()) == 3 for exact in reference(to_dtype(problem, torch.float64)))
    assert_equals_the_reference(problem)


def four_exponentials_problem(case: Case) -> QKProblem:
    """Returns a problem whose q and k are not the rotated q_plain and k_plain, so that it needs four exponentials."""
    problem = make_problem(case)
    return problem._replace(cos=-problem.cos, sin=-problem.sin)


def test_uses_three_exponentials_for_four_neurons_where_possible():
    """The four neurons are those of a rotated pair, in q and in k."""
    case = replace(SMALL, length=128, size=64)
    swept = sum(16 * (row + 16) for row in range(16, 128, 16)) * 2 * 2 * case.size
    slow_path = 3 * sum(row + 1 for row in range(16)) * 2 * 2 * case.size  # of rows with few keys
    strong = replace(case, query_factor=3)
    for problem, lowest, highest in (
        (make_problem(case), 0.75, 0.8),
        (make_problem(strong), 0.75, 0.85),
        (four_exponentials_problem(case), 0.95, 1.1),
    ):
        assert_equals_the_reference(problem)
        assert lowest <= (emulated.library().exponentials() - slow_path) / swept <= highest


@pytest.mark.parametrize("mode", [TRUNCATES, DISTURBS, TRUNCATES | DISTURBS])
@pytest.mark.parametrize("factor", [0.3, 1, 3])
def test_stays_in_the_budget_with_the_largest_errors_that_the_hardware_allows(mode, factor):
    assert_equals_the_reference(make_problem(replace(SMALL, length=96, size=64, query_factor=factor)), mode=mode)


def test_results_do_not_depend_on_the_order_of_threads_and_blocks():
    problem = make_problem(Case(length=70, size=32, padding="some", query_factor=3))
    first = emulated.qk_importance(problem, blocks=1)
    for blocks, mode in ((1, BACKWARDS), (3, 0), (5, BACKWARDS)):
        again = emulated.qk_importance(problem, blocks=blocks, mode=mode)
        assert all(map(torch.equal, first, again))


def test_a_single_token_has_no_importance():
    for case in (Case(length=1, size=32, query_factor=50), Case(length=40, size=32, window=1)):
        for importance in emulated.qk_importance(make_problem(case)):
            assert not importance.any()


def test_padding_is_not_read():
    problem = make_problem(Case(length=70, size=32, padding="some"))
    expected = emulated.qk_importance(problem)
    for x in problem[:4]:
        x.masked_fill_(~problem.valid[:, None, :, None], torch.nan)
    assert all(map(torch.equal, emulated.qk_importance(problem), expected))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("length, token", [(12, 5), (12, 0), (70, 50)])
@pytest.mark.parametrize("argument", [0, 1])
def test_an_infinity_or_nan_shows_in_the_importance_of_its_document(argument, length, token, value):
    """Also in a row of a single key, and where a score of -inf would hide the key."""
    case = Case(length=length, size=32)
    problem = make_problem(case)
    problem[argument][0, 0, token, 2] = value
    q_importance, k_importance = emulated.qk_importance(problem)
    assert q_importance[0, : case.size].isnan().all() and k_importance[0, : case.size].isnan().all()
    assert q_importance[1].isfinite().all() and k_importance[1].isfinite().all()


def test_accepts_strided_heads_and_one_table_per_document():
    problem = make_problem(Case(length=40, size=32))
    tables = {name: torch.cat([x, x.roll(3, 1)]) for name, x in (("cos", problem.cos), ("sin", problem.sin))}
    problem = problem._replace(**tables)
    expected = emulated.qk_importance(problem)
    names = ("q", "k", "q_plain", "k_plain")
    strided = {name: getattr(problem, name).transpose(1, 2).contiguous().transpose(1, 2) for name in names}
    problem = problem._replace(**strided)
    assert all(map(torch.equal, emulated.qk_importance(problem), expected))
    assert_equals_the_reference(problem)
