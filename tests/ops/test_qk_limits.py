"""qk_importance and qk_estimate at the limits of float32: tiny and huge soft caps, and huge or infinite scores."""

import math
from dataclasses import replace

import pytest
import torch

from pymultiling.mathematics.attention import capped_change
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget, relative_error
from tests.support.qk_cases import Case, importance, to_dtype

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # from NumPy in Triton's interpreter

SMALL = Case(batch=1, kv_heads=2, group=1, length=12, size=4)
modes = pytest.mark.parametrize("mode, operator", [("exact", "qk_importance"), ("fast", "qk_estimate")])


@modes
def test_a_soft_cap_far_above_the_scores_is_none(backend, mode, operator):
    """Scores are about 1, so a cap of 1e6 changes them by 1e-12."""
    problem = SMALL.problem(torch.float32)
    exact = OPERATORS[operator].reference()(to_dtype(problem, torch.float64))
    actual = importance(problem._replace(softcap=1e6), mode=mode, backend=backend)
    for a, e in zip(actual, exact):
        assert_within_budget(operator, a, a, e, (problem,))


@modes
@pytest.mark.parametrize("softcap", [1e-3, 0.5])
def test_scores_far_beyond_the_soft_cap_keep_the_digits_that_float32_has(backend, mode, operator, softcap):
    """Scores reach 2000 soft caps, where the hyperbolic tangent of most is 1 in float64."""
    problem = replace(SMALL, query_factor=3, softcap=softcap).problem(torch.float32)
    reference = OPERATORS[operator].reference()
    actual, plain = importance(problem, mode=mode, backend=backend), reference(problem)
    for a, p, e in zip(actual, plain, reference(to_dtype(problem, torch.float64))):
        assert_within_budget(operator, a, p, e, (problem,))


def test_the_change_of_a_capped_score_keeps_its_digits():
    """Against sinh(z) / (cosh(x) cosh(x + z)), the same difference of hyperbolic tangents, for x up to 300 caps."""
    generator = torch.Generator().manual_seed(0)
    size = 10 ** torch.linspace(-8, 2.5, 200, dtype=torch.float64)
    x, z = (
        size[torch.randperm(200, generator=generator)] * (torch.randn(200, generator=generator)).sign() for _ in "xz"
    )
    exact = 50 * torch.sinh(z) / (torch.cosh(x) * torch.cosh(x + z))
    change = capped_change(50 * x, 50 * z, 50.0)
    torch.testing.assert_close(change, exact, rtol=1e-12, atol=0)
    single = capped_change((50 * x).float(), (50 * z).float(), 50.0).double()
    assert ((single - exact).abs() <= 1e-6 * (1 + x.abs() + z.abs()) * exact.abs() + 1e-37).all()


@modes
@pytest.mark.parametrize("scale", [1e8, 1e30])
def test_scores_that_float32_rounds_by_more_than_1_give_a_change_of_probabilities(backend, mode, operator, scale):
    """Each row's change is a difference of two probability distributions, whose squares sum to 2 at most."""
    problem = SMALL.problem(torch.float32)._replace(scale=scale)
    for values in importance(problem, mode=mode, backend=backend)[:2]:
        assert (values.isfinite() & (values <= 2.0001 * SMALL.length)).all() and values.any()


@modes
@pytest.mark.parametrize("change", [1e7, 1e9, 1e30])
def test_a_key_without_probability_gets_all_of_it_by_a_huge_change_of_its_score(backend, mode, operator, change):
    """Query neuron 0 and key neuron 1 hold the first key's score down, by so much that float32 loses log A beside it.

    The last query sees 11 keys of 1/11 and one of 1e-10. Without one of the two neurons the latter has A' = 1.
    """
    problem = SMALL.problem(torch.float32)
    q, k, q_plain, k_plain = (torch.zeros_like(x) for x in problem[:4])
    q[:, :, -1, 1:3] = 1.0
    k[:, :, 0, 0], k[:, :, 0, 2] = -1.0, math.log(1e-10)
    q_plain[:, :, -1, 0], k_plain[:, :, 0, 1] = change, -change
    unrotated = {"cos": torch.ones_like(problem.cos), "sin": torch.zeros_like(problem.sin)}
    heads = {"q": q, "k": k, "q_plain": q_plain, "k_plain": k_plain}
    results = importance(problem._replace(scale=1.0, **heads, **unrotated), mode=mode, backend=backend)[:2]
    for neuron, values in enumerate(results):
        expected = torch.zeros(SMALL.size)
        expected[neuron] = 1 + 1 / 11
        squared_rounding = SMALL.length * 2.0**-48  # of the probabilities of all rows, which other neurons leave as is
        torch.testing.assert_close(values, expected.repeat(1, 2), rtol=1e-6, atol=squared_rounding)


@modes
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["q", "k"])
@pytest.mark.parametrize("token", [0, -1])
def test_an_infinite_query_or_key_makes_its_head_nan(backend, mode, operator, softcap, sign, name, token):
    """Also where all its scores are -inf, which a softmax of the other keys would not notice. The other head stays."""
    problem = SMALL.problem(torch.float32)._replace(softcap=softcap)
    whole = importance(problem, mode=mode, backend=backend)
    broken = getattr(problem, name).clone()
    broken[0, 1, token, 2] = sign * torch.inf
    results = importance(problem._replace(**{name: broken}), mode=mode, backend=backend)
    plain = OPERATORS[operator].reference()(problem._replace(**{name: broken}))
    for values, finite, expected in zip(results, whole, plain):
        first, second = values.unflatten(1, (2, -1)).unbind(1)
        assert second.isnan().all() and expected.unflatten(1, (2, -1))[:, 1].isnan().all()
        assert relative_error(first, finite.unflatten(1, (2, -1))[:, 0].double()) == 0


@modes
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("site", ["q", "k"])
def test_an_infinite_neuron_before_the_rotation_is_nan(backend, mode, operator, softcap, site):
    """Its change is infinite, so that it is NaN, with a soft cap too. The other neurons stay as they are."""
    problem = SMALL.problem(torch.float32)._replace(softcap=softcap)
    whole = importance(problem, mode=mode, backend=backend)
    broken = getattr(problem, f"{site}_plain").clone()
    broken[0, 1, 5, 2] = torch.inf
    results = importance(problem._replace(**{f"{site}_plain": broken}), mode=mode, backend=backend)
    for number, (values, finite) in enumerate(zip(results, whole)):
        is_broken = torch.zeros(2, SMALL.size, dtype=torch.bool)
        is_broken[1, 2] = number % 2 == (site == "k")  # odd results are of the keys
        assert torch.equal(values.isnan(), is_broken.view(1, -1))
        torch.testing.assert_close(values[~values.isnan()], finite[~values.isnan()], rtol=0, atol=0)


@modes
@pytest.mark.parametrize("sign", [1, -1])
def test_an_infinite_bias_makes_its_head_nan(backend, mode, operator, sign):
    """Also where it is -inf, which is no way to hide a key: `valid`, `window` and `causal` hide keys."""
    bias = torch.zeros(1, 2, SMALL.length, SMALL.length)
    problem = SMALL.problem(torch.float32)._replace(bias=bias)
    whole = importance(problem, mode=mode, backend=backend)
    broken = bias.clone()
    broken[0, 1, 5, 2] = sign * torch.inf
    for values, finite in zip(importance(problem._replace(bias=broken), mode=mode, backend=backend), whole):
        first, second = values.unflatten(1, (2, -1)).unbind(1)
        assert second.isnan().all() and torch.equal(first, finite.unflatten(1, (2, -1))[:, 0])
