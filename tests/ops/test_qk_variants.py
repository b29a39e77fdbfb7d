"""qk_importance and qk_estimate in all variants that their launcher makes, as compiled for a GPU.

The kernels run in the interpreter of tests/ptx, from its archives, because to compile them takes minutes. A width of
the heads and a dtype decide tiles, warps and registers; a kind of attention decides which code is compiled. All pairs
of width and dtype are run, and all kinds. What kernels learn from their arguments (window, padding, grouped heads, how
large the attention scores are) takes turns.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch

from pymultiling.ops.backends import load_triton
from pymultiling.ops.registry import OPERATORS
from tests.ops import test_qk_estimate as estimate
from tests.ops import test_qk_importance as importance
from tests.support.qk_cases import Case

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SIZES = (16, 20, 32, 64, 128, 256)
ROTATED, NORMS, SOFT_CAPS = ("half", "interleaved", "partial", None), (False, True), (None, 2.0)
KINDS = (
    *({"rotation": x, "norm": y, "softcap": z} for x, y, z in product(ROTATED, NORMS, SOFT_CAPS)),
    *({"before": False, "softcap": z} for z in SOFT_CAPS),
)
# In turn. The numbers of turns have no common divisor, so that all combinations would come.
WINDOWS = (None, None, 30, None, 18)
PADDINGS = (None, "left", None, "some", None, None, "right")
QUERY_FACTORS = (1, 1, 30, 1, 1, 1e-3, 1, 1, 1, 1, 1)
GROUPS = (2, 1, 1, 1)


def name_of(case, dtype):
    """Returns the name of a test."""
    kind = "after the rotation" if not case.before else f"rotation {case.rotation}"
    further = f"{', norm' * case.norm}{', soft cap' if case.softcap else ''}{', sinks' if case.sinks else ''}"
    further += f"{', both sides' * (not case.causal)}{', biases' if case.bias else ''}"
    return f"{case.size}, {str(dtype).removeprefix('torch.')}, {kind}{further}"


def cases():
    """Yields (case, dtype)."""
    assert len(SIZES) * len(DTYPES) == len(KINDS)
    for n, (size, dtype) in enumerate(product(SIZES, DTYPES)):
        kind = KINDS[7 * n % len(KINDS)]  # in another order, so that a size or dtype meets different kinds
        window, padding, factor, group = (x[n % len(x)] for x in (WINDOWS, PADDINGS, QUERY_FACTORS, GROUPS))
        case = Case(batch=1, kv_heads=1, length=70, size=size, float32_tables=n % 2 == 1, **kind)
        yield replace(case, window=window, padding=padding, query_factor=factor, group=group), dtype
    yield from SINKS
    yield from BOTH_SIDES
    yield from BIASES


# As in gpt-oss, and with each dtype, site and kind of change.
SINK_SCORES = (-1.0, 4.0)
SINKS = (
    (Case(batch=1, kv_heads=1, length=70, size=64, sinks=SINK_SCORES, window=30, padding="left"), torch.bfloat16),
    (Case(batch=1, kv_heads=1, length=70, size=16, sinks=SINK_SCORES, norm=True, softcap=2.0), torch.float32),
    (Case(batch=1, kv_heads=1, length=70, size=128, sinks=SINK_SCORES, before=False, query_factor=30), torch.float16),
)
BOTH_SIDES = (
    (Case(batch=1, kv_heads=1, length=70, size=64, causal=False, window=18, padding="some"), torch.bfloat16),
    (Case(batch=1, kv_heads=1, length=70, size=32, causal=False, rotation=None, padding="right"), torch.float32),
    (Case(batch=1, kv_heads=1, length=70, size=16, causal=False, norm=True, softcap=2.0), torch.float16),
)
BOTH = Case(batch=1, kv_heads=1, length=70, size=64, rotation=None, causal=False)
BIASES = (
    (replace(BOTH, bias="shared", padding="some"), torch.bfloat16),  # as in T5
    (replace(BOTH, bias="own", size=32, sinks=SINK_SCORES, causal=True, window=30), torch.float32),
)

CASES = {name_of(*x): x for x in cases()}
on_triton = pytest.mark.parametrize("backend", ["triton"], indirect=True)
each_case = pytest.mark.parametrize("case, dtype", CASES.values(), ids=CASES)


@pytest.fixture
def only_compiled(pytestconfig):
    if pytestconfig.option.ptx is None:
        pytest.skip("runs with --ptx")


@on_triton
@each_case
def test_importance_equals_the_reference(only_compiled, backend, case, dtype):
    importance.check(case, dtype, backend)


@on_triton
@each_case
def test_the_estimate_equals_the_reference_where_draws_cannot_move(only_compiled, backend, case, dtype):
    one_head = replace(case, group=1)  # has fewer draws
    estimate.check(estimate.without_ties(one_head, dtype), dtype, backend)


@on_triton
def test_a_single_token_has_no_importance(only_compiled, backend):
    case, dtype = next(iter(CASES.values()))
    one_token = replace(case, length=1)
    assert not any(map(torch.any, importance.importance(one_token.problem(dtype), backend=backend)))
    estimate.check(one_token, dtype, backend)


@pytest.mark.skipif(load_triton() is not None, reason="Triton is not installed")
@pytest.mark.parametrize("operator", ["qk_importance", "qk_estimate"])
def test_the_cases_are_all_variants(operator):
    """Of a launch's constants and options, and of each constant that a kind of attention decides."""
    from pymultiling.triton_kernels.qk_heads import Heads, settings

    def hashable(constants, options):
        return frozenset(constants.items()), frozenset(options.items())

    sizes = range(1, max(SIZES) + 1)
    possible = {hashable(*settings(operator, dtype, size, 32)) for dtype in DTYPES for size in sizes}
    assert {hashable(*settings(operator, dtype, case.size, 32)) for case, dtype in CASES.values()} == possible
    kernel = OPERATORS[operator].triton_module().kernel
    kinds = set()
    for case, dtype in CASES.values():
        problem = replace(case, length=2).problem(dtype)
        constants, _ = Heads.of(problem).constants(operator, kernel, problem)
        kinds.add(frozenset((name, x) for name, x in constants.items() if isinstance(x, bool)))
    flags = {name for kind in kinds for name, _ in kind}
    assert {flag for kind in kinds for flag in kind} == set(product(flags, (False, True)))
