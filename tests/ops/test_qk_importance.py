"""qk_importance: the reference against brute force, then every backend against the reference."""

import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.rotation import rotation_pairs
from pymultiling.ops import unavailable
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget, relative_error
from tests.support.operator_inputs import examples, is_interpreted
from tests.support.qk_cases import (
    EXTREME,
    Case,
    brute_force,
    importance,
    limit_kernels,
    share_kernels,
    to_dtype,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # from NumPy in Triton's interpreter
reference = OPERATORS["qk_importance"].reference()

BRUTE_FORCE = {
    "half": Case(),
    "interleaved": Case(rotation="interleaved"),
    "partial": Case(rotation="partial"),
    "no rotation": Case(rotation=None, size=5),
    "after the rotation": Case(before=False),
    "norm": Case(norm=True),
    "norm, no rotation": Case(norm=True, rotation=None),
    "soft cap": Case(softcap=1.5),
    "soft cap, norm": Case(softcap=2.0, norm=True),
    "window, left padding": Case(window=4, padding="left"),
    "some padding": Case(window=5, padding="some"),
    "a document of padding": Case(padding="whole document"),
    "large scores": Case(query_factor=30),
    "sinks": Case(sinks=(-2.0, 3.0)),
    "sinks, norm, window, padding": Case(sinks=(-2.0, 3.0), norm=True, window=4, padding="left"),
    "sinks, soft cap": Case(sinks=(-2.0, 3.0), softcap=1.5),
    "sinks, after the rotation": Case(sinks=(-2.0, 3.0), before=False),
    "sinks, a single key": Case(sinks=(-3.0, 3.0), window=1),
    "weak and strong sinks, large scores": Case(sinks=(-60.0, 60.0), query_factor=30),
    "both sides": Case(causal=False),
    "biases, both sides, left padding": Case(causal=False, rotation=None, bias="shared", padding="left"),
    "biases, norm, some padding": Case(norm=True, bias="own", padding="some"),
    "biases, sinks, window": Case(bias="own", sinks=(-2.0, 3.0), window=5, causal=False),
    "both sides, left padding": Case(causal=False, rotation=None, padding="left"),
    "both sides, norm, window, some padding": Case(causal=False, norm=True, window=4, padding="some"),
    "both sides, soft cap, after the rotation": Case(causal=False, softcap=1.5, before=False),
    "both sides, sinks, a document of padding": Case(causal=False, sinks=(-2.0, 3.0), padding="whole document"),
}


@pytest.mark.parametrize("case", BRUTE_FORCE.values(), ids=BRUTE_FORCE)
def test_the_reference_equals_zeroing_each_row(case):
    for actual, exact in zip(reference(case.problem()), brute_force(case)):
        assert relative_error(actual, exact) < 1e-9


def fitting(case, backend, length=20):
    """Returns a variant of the case that suits a backend: see `share_kernels`.

    For Triton's interpreter it is a small one that still has two tiles of rows.
    """
    if not is_interpreted(backend):
        return share_kernels(case, backend)
    return replace(case, batch=1, kv_heads=1, group=min(case.group, 2), length=min(case.length, length))


def check(case, dtype, backend, length=20):
    """Compares a backend's results with the reference, within the error budget. Returns them and the exact ones."""
    case = fitting(case, backend, length)
    problem = case.problem(dtype)
    actual = importance(problem, backend=backend)
    plain, exact = reference(problem), reference(to_dtype(problem, torch.float64))
    for a, p, e in zip(actual, plain, exact):
        assert a.dtype == torch.promote_types(dtype, torch.float32)
        assert_within_budget("qk_importance", a, p, e, (problem,))
    return actual, exact


cases = st.builds(
    Case,
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    length=st.sampled_from([1, 2, 5, 16, 17, 33]),
    size=st.sampled_from([4, 8, 16, 20, 36]),
    rotation=st.sampled_from(["half", "interleaved", "partial", None]),
    before=st.booleans(),
    norm=st.booleans(),
    window=st.sampled_from([None, 1, 3, 20]),
    softcap=st.sampled_from([None, 2.0, 50.0]),
    padding=st.sampled_from([None, "left", "right", "some", "whole document"]),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)


@examples
@given(cases, st.sampled_from([torch.float32, torch.bfloat16]))
def test_backends_equal_the_reference(backend, case, dtype):
    check(limit_kernels(case, backend), dtype, backend)


@examples
@given(cases, st.sampled_from([(-2.0, 3.0), (5.0, 60.0)]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_backends_with_sinks_equal_the_reference(backend, case, sinks, dtype):
    case = limit_kernels(case, backend)
    if backend == "triton" and not is_interpreted(backend):
        case = replace(case, rotation="half", before=True)  # test_qk_variants.py has sinks with other kinds
    check(replace(case, sinks=sinks), dtype, backend)


LONG = {
    "half": Case(),
    "interleaved": Case(rotation="interleaved"),
    "after the rotation": Case(before=False, window=40),
    "norm, padding": Case(norm=True, padding="some"),
    "soft cap": Case(softcap=1.5),
    "both sides, window": Case(causal=False, window=20, padding="some"),
    "both sides, biases": Case(causal=False, rotation=None, bias="own", padding="some"),
}


@pytest.mark.parametrize("case", LONG.values(), ids=LONG)
def test_rows_of_many_keys_equal_the_reference(backend, case):
    check(replace(case, length=70), torch.bfloat16, backend, length=70)


@pytest.mark.parametrize("layout", ["heads last", "half", "double", "documents"])
def test_biases_of_any_layout_and_dtype_change_nothing(backend, layout):
    """Against contiguous float32 biases. Those of T5 are the transpose of (l, l, H). Each document may have its own."""
    case = share_kernels(Case(bias="shared", causal=False, rotation=None), backend)
    problem = case.problem(torch.float32)
    problem = problem._replace(bias=problem.bias.bfloat16().float())
    other = {
        "heads last": problem.bias.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "half": problem.bias.bfloat16(),
        "double": problem.bias.double(),
        "documents": problem.bias.repeat(case.batch, 1, 1, 1),
    }[layout]
    for a, e in zip(importance(problem._replace(bias=other), backend=backend), importance(problem, backend=backend)):
        torch.testing.assert_close(a, e, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
def test_float16_equals_the_reference(backend):
    check(Case(norm=True, padding="left"), torch.float16, backend)


@pytest.mark.parametrize("case", EXTREME.values(), ids=EXTREME)
def test_extreme_inputs_equal_the_reference(backend, case):
    check(case, torch.float32, backend, length=40)


@pytest.mark.parametrize("strength", [12.0, 60.0, 400.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_neuron_that_dominates_its_head_keeps_its_digits(backend, strength, sign):
    case = fitting(Case(batch=1, kv_heads=1, group=1, length=50, rotation=None), backend, length=40)
    problem = case.problem()
    problem.q[..., 3], problem.k[..., 3] = strength, sign * torch.linspace(-1, 1, case.length).square()
    single = to_dtype(problem._replace(q_plain=problem.q, k_plain=problem.k), torch.float32)
    for a, e in zip(importance(single, backend=backend), reference(to_dtype(single, torch.float64))):
        assert int(e.argmax()) == 3
        important = e > 1e-6 * e.max()
        torch.testing.assert_close(a.double()[important], e[important], rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("factor", [1e-4, 1e-2, 3e3])
def test_a_small_or_dominating_neuron_under_a_norm_keeps_its_digits(backend, factor, mode):
    """Against zeroing each row. Dimension 1 of every head is `factor` times as large as the others.

    The norm grows by a factor that differs from 1 by less than float32's precision at 1e-4. With 12 keys "fast" is
    exact too.
    """
    case = fitting(Case(norm=True, neuron_factor=factor, query_factor=3), backend)
    results = importance(case.problem(torch.float32), mode=mode, backend=backend)[:2]
    for a, e in zip(results, brute_force(case)):
        a, e = a.double().unflatten(1, (-1, case.size)), e.unflatten(1, (-1, case.size))
        torch.testing.assert_close(a[..., 1], e[..., 1], rtol=1e-3, atol=0)
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-6 * float(e.max()))


def test_a_single_token_has_no_importance(backend):
    for case in (Case(length=1, query_factor=50), Case(length=9, window=1), Case(length=1, norm=True, softcap=3.0)):
        for values in importance(share_kernels(case, backend).problem(torch.float32), backend=backend):
            assert not values.any()


def test_no_tokens_have_no_importance(backend):
    for case in (Case(length=0), Case(batch=0)):
        for values in importance(case.problem(torch.float32), backend=backend):
            assert values.shape[0] == case.batch and not values.any()


def test_padding_is_not_read(backend):
    case = share_kernels(Case(padding="some"), backend)
    problem = case.problem(torch.float32)
    expected = importance(problem, backend=backend)
    for x in problem[:4]:
        x.masked_fill_(~problem.valid[:, None, :, None], torch.nan)
    assert all(map(torch.equal, importance(problem, backend=backend), expected))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_makes_its_head_nan(backend, which, softcap):
    case = share_kernels(Case(softcap=softcap), backend)
    problem = case.problem(torch.float32)
    problem[which][0, 0, 5, 2] = torch.nan
    q_importance, k_importance = importance(problem, backend=backend)
    assert q_importance[0, : case.size].isnan().all() and k_importance[0, : case.size].isnan().all()
    assert q_importance[1].isfinite().all() and k_importance[1].isfinite().all()


def test_strides_change_nothing(backend):
    """Heads are strided as in a model: (B, l, H, d) transposed. Each document has its tables. One growth is float64."""
    case = share_kernels(Case(norm=True), backend)
    problem = case.problem(torch.float32)
    expected = importance(problem, backend=backend)
    names = ("q", "k", "q_plain", "k_plain", "q_growth", "k_growth")
    strided = {name: getattr(problem, name).transpose(1, 2).contiguous().transpose(1, 2) for name in names}
    strided["q"] = strided["q"].mT.contiguous().mT  # the last dimension is strided too
    strided["q_growth"] = strided["q_growth"].double()
    strided |= {name: getattr(problem, name).repeat(case.batch, 1, 1) for name in ("cos", "sin")}
    for a, e in zip(importance(problem._replace(**strided), backend=backend), expected):
        torch.testing.assert_close(a.float(), e, rtol=1e-6, atol=0)


def test_each_document_may_have_its_own_tables(backend):
    case = share_kernels(Case(batch=1), backend)
    early = case.problem(torch.float32)
    late = early._replace(cos=early.cos.roll(3, 1), sin=early.sin.roll(3, 1))
    both = QKProblem(*(torch.cat([a, b]) if isinstance(a, torch.Tensor) else a for a, b in zip(early, late)))
    for a, b in zip(importance(both, backend=backend), importance(late, backend=backend)):
        torch.testing.assert_close(a[1:], b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", [Case(length=90, size=20), Case(length=90, size=20, norm=True, softcap=5.0)])
def test_the_number_of_threads_changes_no_bit(backend, two_threads, case):
    if backend != "cpp":
        pytest.skip(
            "PyTorch's matrix products depend on the number of threads, and Triton kernels do not use CPU threads"
        )
    problem = case.problem(torch.float32)
    two = importance(problem, backend=backend)
    torch.set_num_threads(1)
    assert all(map(torch.equal, two, importance(problem, backend=backend)))


def test_kernels_use_the_second_thread(two_threads):
    """Without OpenMP at::parallel_for silently runs on one thread."""
    reason = unavailable("cpp") or ("only Linux builds use OpenMP" if sys.platform != "linux" else None)
    if reason is not None:
        pytest.skip(reason)
    case = Case(batch=1, length=256, size=32)
    problem = case.problem(torch.float32)
    time.sleep(0.2)  # PyTorch's threads, which spin after their work, go to sleep
    all_threads, this_thread = time.process_time(), time.thread_time()
    for _ in range(5):
        importance(problem, backend="cpp")
    this_thread = time.thread_time() - this_thread
    assert time.process_time() - all_threads > 1.2 * this_thread


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": torch.ones(1, 3, 4, 8)},
        {"k_plain": None},
        {"sin": None},
        {"valid": torch.ones(1, 4)},
        {"q_growth": torch.ones(1, 2, 4, 7)},
        {"window": 0},
        {"softcap": -1.0},
        {"sinks": torch.ones(3)},
        {"bias": torch.ones(1, 2, 4, 3)},
        {"bias": torch.ones(1, 2, 4, 4, dtype=torch.int64)},
        {"sinks": torch.ones(2, dtype=torch.int64)},
        {"cos": torch.ones(1, 4, 3), "sin": torch.ones(1, 4, 3)},
        {"q_plain": None, "k_plain": None, "q_growth": torch.ones(1, 2, 4, 8)},
    ],
)
def test_wrong_arguments_are_refused(wrong):
    right = Case(batch=1, kv_heads=1, length=4).problem()
    with pytest.raises(ValueError, match=r"must|a growth needs"):
        importance(right._replace(**wrong))


def test_is_a_torch_operator_and_compiles():
    case = Case(length=5, size=4, norm=True, sinks=(-1.0, 1.0))
    args = tuple(case.problem(torch.float32))
    torch.library.opcheck(torch.ops.pymultiling.qk_importance.default, args)
    compiled = torch.compile(lambda *a: torch.ops.pymultiling.qk_importance(*a), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*args), torch.ops.pymultiling.qk_importance(*args)))


def test_rotation_pairs_are_partners_with_opposite_signs():
    for interleaved in (False, True):
        partner, sign = rotation_pairs(10, 6, interleaved, torch.device("cpu"))
        assert torch.equal(partner[partner], torch.arange(10))
        assert (sign[:6] * sign[partner[:6]] == -1).all() and torch.equal(partner[6:], torch.arange(6, 10))
