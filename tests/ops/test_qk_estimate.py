"""qk_importance(mode="fast"): the reference against its definition in loops, then every backend against the reference.

A rounding error of a probability can move a draw to another key. So backends are compared up to rounding where rows
have no draws, and where no draw is near the next key. Elsewhere they may differ by the error of the estimate, but not
in most neurons.
"""

import math
from dataclasses import replace
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pymultiling.errors import BackendUnavailable
from pymultiling.ops import QKEstimate, qk_importance
from pymultiling.ops.dispatch import select_implementation
from pymultiling.ops.reference.qk_estimate import choose_keys
from pymultiling.ops.registry import OPERATORS
from tests.support.error_budget import assert_within_budget, relative_error
from tests.support.operator_inputs import examples, is_interpreted
from tests.support.qk_cases import EXTREME, Case, importance, limit_kernels, share_kernels, to_dtype

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # from NumPy in Triton's interpreter
reference, all_keys = OPERATORS["qk_estimate"].reference(), OPERATORS["qk_importance"].reference()
SMALL = Case(batch=1, kv_heads=1, group=1, length=32, size=8)  # 16 rows with draws
THRESHOLDS = [0.07 / 2**m for m in range(8)]


@pytest.fixture
def estimating(backend):
    """Yields every backend that has the operator."""
    try:
        select_implementation("qk_estimate", (SMALL.problem(torch.float32),), backend)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    return backend


def fitting(case, backend):
    """Returns a variant of the case that suits a backend: see `share_kernels`.

    For Triton's interpreter it is a small one that still has rows with draws.
    """
    case = share_kernels(case, backend)
    return replace(case, batch=1, kv_heads=1, group=1, length=min(case.length, 36)) if is_interpreted(backend) else case


def estimate(case, backend="torch", dtype=torch.float64):
    """Returns the `QKEstimate` of a case."""
    return importance(case.problem(dtype), mode="fast", backend=backend)


# --- the definition ------------------------------------------------------------------------------------------------


def weights(a: list[float], number: int) -> tuple[list[float], list[float], list[float]]:
    """Returns the weights of keys with probabilities a: for all draws, for the even ones and for the odd ones.

    number: that of the keys up to the query's own.
    """
    if len(a) <= 16:
        return a, a, a
    low_enough = [threshold for threshold in THRESHOLDS if sum(probability > threshold for probability in a) <= 8]
    certain = [j for j in range(len(a)) if a[j] > min(low_enough, default=0.07)]
    draws = (16 - len(certain)) // 2 * 2
    rest = [0.0 if j in certain else a[j] for j in range(len(a))]
    mass, offset = sum(rest), (0.6180339887498949 * number) % 1
    halves = [[a[j] if j in certain else 0.0 for j in range(len(a))] for _ in range(2)]
    for r in range(draws):
        running = 0.0
        for j, probability in enumerate(rest):
            running += probability
            if (r + offset) * mass / draws < running:
                halves[r % 2][j] += 2 * mass / draws
                break
    return [(even + odd) / 2 for even, odd in zip(*halves)], *halves


def change(a: list[float], w: list[float], y: list[float], sink: float) -> float:
    """Returns f of one query, from its keys' probabilities a, weights w and changes of the attention scores y.

    sink: the probability of its sink, 0 without one.
    """
    shift = max(*y, 0.0)
    v = [math.exp(yj - shift) for yj in y]
    z = sum(map(math.prod, zip(w, v))) + sink * math.exp(-shift)
    return sum(wj * aj * (vj / z - 1) ** 2 for wj, aj, vj in zip(w, a, v))


def definition(case: Case) -> QKEstimate:
    """Returns the estimate by its definition: one dimension of one head after the other is zeroed.

    The attention scores are recomputed, and the sums over keys are loops over queries.
    """
    projections, valid = case.projections(), case.valid()

    def scores(zero=None):
        rotated = []
        for site, x in enumerate(projections):
            x = x.clone()
            if zero and zero[0] == site and case.before:
                x[:, zero[1], :, zero[2]] = 0
            x = case.rotated(case.normed(x))
            if zero and zero[0] == site and not case.before:
                x[:, zero[1], :, zero[2]] = 0
            rotated.append(x)
        s = case.size**-0.5 * rotated[0] @ rotated[1].repeat_interleave(case.group, 1).mT
        s = s if case.bias is None else s + case.biases()
        return s if case.softcap is None else case.softcap * torch.tanh(s / case.softcap)

    def rows(b):
        """Returns (query, the keys that it sees) for each valid query of document b."""
        tokens = valid[b].nonzero().flatten().tolist()
        last, window = 0 if case.causal else case.length, case.window or case.length
        return [(i, [j for j in tokens if j - i <= last and abs(i - j) < window]) for i in tokens]

    whole = scores()
    head_counts = (case.kv_heads * case.group, case.kv_heads)
    no_sinks = torch.full(head_counts[:1], -torch.inf, dtype=torch.float64)
    sinks = no_sinks if case.sinks is None else case.sink_scores()
    sums = [torch.zeros(2, case.batch, heads, case.size, dtype=torch.float64) for heads in head_counts]
    for site, out in enumerate(sums):
        for head in range(out.shape[2]):
            query_heads = [head] if site == 0 else range(head * case.group, (head + 1) * case.group)
            for n in range(case.size):
                y = scores((site, head, n)) - whole
                for b in range(case.batch):
                    for h in query_heads:
                        for i, keys in rows(b):
                            *a, sink = torch.cat([whole[b, h, i, keys], sinks[h : h + 1]]).softmax(-1).tolist()
                            number = keys.index(i) + 1
                            f, even, odd = (change(a, w, y[b, h, i, keys].tolist(), sink) for w in weights(a, number))
                            out[0, b, head, n] += f
                            out[1, b, head, n] += ((even - odd) / 2) ** 2
    (q, q_variance), (k, k_variance) = (x.flatten(2) for x in sums)
    return QKEstimate(q, k, q_variance.sqrt(), k_variance.sqrt())


DEFINITION = {
    "half": replace(SMALL, group=2),
    "interleaved": replace(SMALL, rotation="interleaved", size=4),
    "partial": replace(SMALL, rotation="partial"),
    "no rotation": replace(SMALL, rotation=None, size=3),
    "after the rotation": replace(SMALL, before=False, group=2),
    "norm": replace(SMALL, norm=True),
    "soft cap, norm": replace(SMALL, softcap=2.0, norm=True),
    "window, left padding": replace(SMALL, window=20, length=45, padding="left", size=4),
    "some padding, two documents": replace(SMALL, batch=2, length=40, padding="some", size=4, kv_heads=2),
    "a document of padding": replace(SMALL, batch=2, padding="whole document", size=4),
    "large scores": replace(SMALL, query_factor=30),
    "long": replace(SMALL, length=90, size=2),
    "sinks": replace(SMALL, group=2, sinks=(-1.0, 4.0)),
    "sinks, soft cap, norm": replace(SMALL, sinks=(2.0, 2.0), softcap=2.0, norm=True),
    "both sides": replace(SMALL, causal=False),
    "both sides, biases": replace(SMALL, causal=False, bias="own", size=4),
    "both sides, window, some padding": replace(SMALL, causal=False, length=50, window=14, padding="some", size=4),
}


@pytest.mark.parametrize("case", DEFINITION.values(), ids=DEFINITION)
def test_the_reference_equals_the_definition(case):
    for actual, literal in zip(estimate(case), definition(case)):
        assert relative_error(actual, literal) < 1e-9


def random_probabilities(sharpness: float, rows: int, keys: int, probable: int = 0):
    """Returns log A and which keys each row sees, (rows, keys) each. Row i sees 151 + i keys.

    The first `probable` keys have high attention scores.
    """
    generator = torch.Generator().manual_seed(0)
    scores = sharpness * torch.randn(rows, keys, generator=generator, dtype=torch.float64)
    scores[:, :probable] += 10
    is_visible = torch.ones(rows, keys, dtype=torch.bool).tril(150)
    return scores.masked_fill(~is_visible, -torch.inf).log_softmax(-1), is_visible


def test_weights_equal_the_definition_for_every_threshold():
    lowest = set()
    for sharpness, probable in ((0.1, 10), (0.1, 16), (1, 0), (3, 0), (4, 0), (5, 0), (100, 0)):
        log_a, is_visible = random_probabilities(sharpness, 20, 200, probable)
        slots = choose_keys(log_a, is_visible, 150 + torch.arange(20))
        for row, (a, keys) in enumerate(zip(log_a.exp(), is_visible)):
            passing = [int((a > threshold).sum()) for threshold in THRESHOLDS]
            lowest.add(max((m for m in range(8) if passing[m] <= 8), default=-1))
            for (weight, _), literal in zip(slots.weights, weights(a[keys].tolist(), int(keys.sum()))):
                actual = torch.zeros(200, dtype=torch.float64).scatter_add(0, slots.key[row], weight[row])
                torch.testing.assert_close(
                    actual[keys], torch.tensor(literal, dtype=torch.float64), rtol=1e-9, atol=1e-12
                )
    assert lowest == {-1, *range(8)}


@pytest.mark.parametrize("number", [8, 9, 13, 14, 15, 16, 20])
def test_equal_keys_at_the_largest_number_of_certain_keys_give_finite_results(estimating, number):
    """14 keys of A = 1/14 pass the threshold 0.07 and leave two draws for the rest. 15 keys of 1/15 do not pass."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 28, 4), torch.randn(1, 1, 28, 4)
    q[..., 0], k[..., 0] = 8.0, -4.0
    k[:, :, 2 : 2 + number] = torch.tensor([4.0, 0.0, 0.0, 0.0])
    for value in qk_importance(q, k, q, k, scale=1.0, mode="fast", backend=estimating):
        assert value.isfinite().all() and (value >= 0).all()


def test_weights_sum_to_one():
    for sharpness in (0.1, 1.0, 3.0, 10.0, 100.0):
        log_a, is_visible = random_probabilities(sharpness, 300, 500)
        slots = choose_keys(log_a.float(), is_visible, 150 + torch.arange(300))
        assert is_visible.gather(1, slots.key).all()
        for weight, log_weight in slots.weights:
            torch.testing.assert_close(weight.sum(-1), torch.ones(300), rtol=0, atol=2e-6)
            assert (slots.log_a > -torch.inf)[log_weight > -torch.inf].all()


# --- every backend -------------------------------------------------------------------------------------------------


def check(case, dtype, backend):
    """Compares a backend with the reference, up to rounding."""
    problem = case.problem(dtype)
    actual = importance(problem, mode="fast", backend=backend)
    plain, exact = reference(problem), reference(to_dtype(problem, torch.float64))
    for value, plain_value, exact_value in zip(actual[:2], plain, exact):
        assert value.dtype == torch.float32
        assert_within_budget("qk_estimate", value, plain_value, exact_value, (problem,))
    for value, plain_value, exact_value, size in zip(actual[2:], plain[2:], exact[2:], exact):
        # A spread is a difference, so it has the rounding errors of the subtracted values.
        assert_within_budget(
            "qk_estimate", value + size.float(), plain_value + size.float(), exact_value + size, (problem,)
        )


short = st.builds(
    lambda span, causal, **others: Case(
        length=span[0], window=span[1] if causal else span[1] and min(span[1], 8), causal=causal, **others
    ),
    span=st.sampled_from([(1, None), (2, None), (9, 1), (16, None), (17, 16), (33, 9), (33, 16)]),
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 2),
    size=st.sampled_from([4, 8, 20, 36]),
    rotation=st.sampled_from(["half", "interleaved", "partial", None]),
    before=st.booleans(),
    norm=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
    sinks=st.sampled_from([None, (-2.0, 3.0), (5.0, 60.0)]),
    padding=st.sampled_from([None, "left", "right", "some", "whole document"]),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)


@examples
@given(short, st.sampled_from([torch.float32, torch.bfloat16]))
def test_rows_of_16_keys_are_exact(estimating, case, dtype):
    case = fitting(limit_kernels(case, estimating), estimating)
    check(case, dtype, estimating)
    problem = case.problem(dtype)
    q, k, q_error, k_error = importance(problem, mode="fast", backend=estimating)
    exact, plain = all_keys(to_dtype(problem, torch.float64)), all_keys(problem)
    for value, plain_value, exact_value in zip((q, k), plain, exact):
        assert_within_budget("qk_estimate", value, plain_value, exact_value, (problem,))
    assert not q_error.any() and not k_error.any()


@pytest.mark.parametrize("factor", [1, 1e-2, 1e-4])
def test_small_changes_of_documents_of_two_tokens_keep_their_digits(estimating, factor):
    """One row with two keys decides, so rounding errors do not average out."""
    for seed in range(5):
        case = Case(batch=1, kv_heads=1, group=1, length=2, size=8, query_factor=factor, seed=seed)
        problem = share_kernels(case, estimating).problem(torch.float32)
        actual = importance(problem, mode="fast", backend=estimating)[:2]
        plain, exact = reference(problem), reference(to_dtype(problem, torch.float64))
        for value, plain_value, exact_value in zip(actual, plain, exact):
            assert_within_budget("qk_estimate", value, plain_value, exact_value, (problem,))


def test_a_change_at_an_improbable_first_key_keeps_its_digits(estimating):
    """The change of the first key's attention score is far from that of all probable keys."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 9, 4).unbind()
    q[..., 0], k[..., 0, 0], k[..., 1:, 0] = 5.0, -4.0, 0.01 * k[..., 1:, 0]
    problem = Case(batch=1, kv_heads=1, group=1, length=9, rotation=None).problem(torch.float32)
    problem = problem._replace(q=q, k=k, q_plain=q, k_plain=k, scale=1.0)
    plain, exact = reference(problem), reference(to_dtype(problem, torch.float64))
    for value, plain_value, exact_value in zip(importance(problem, mode="fast", backend=estimating), plain[:2], exact):
        assert_within_budget("qk_estimate", value, plain_value, exact_value, (problem,))


@pytest.mark.parametrize("change", [10.0, 18.0, 25.0])
def test_halves_of_the_draws_that_miss_the_keys_that_gain_have_no_error(estimating, change):
    """The last query sees 64 keys of 1/64. Without query neuron 0 the scores of four keys grow, those of the next four
    fall, and so on. The even draws fall on the former keys, the odd ones on the latter: in each half nothing changes.
    """
    case = share_kernels(Case(batch=1, kv_heads=1, group=1, length=64, size=8, rotation=None), estimating)
    problem = case.problem(torch.float32)
    q, k, q_plain = (torch.zeros_like(x) for x in (problem.q, problem.k, problem.q))
    k[..., 0] = torch.tensor([-1.0, 1.0]).repeat_interleave(4).repeat(8)
    q_plain[:, :, -1, 0] = change
    problem = problem._replace(q=q, k=k, q_plain=q_plain, k_plain=torch.zeros_like(k), scale=1.0)
    actual = importance(problem, mode="fast", backend=estimating)
    gain = math.tanh(change)  # of the probability of a key, relative to 1/64: A' / A = 1 + tanh or 1 - tanh
    torch.testing.assert_close(float(actual.q[0, 0]), gain**2 / 64, rtol=1e-5, atol=0)
    assert float(actual.q_error[0, 0]) < 1e-6 / 64


def nearest_tie(case, dtype) -> float:
    """Returns the smallest relative distance of a draw to the next key, or of a probability to a threshold."""
    nearest = 1.0
    q, k = (x.double() for x in case.problem(dtype)[:2])
    for b in range(case.batch):
        tokens = case.valid()[b].nonzero().flatten()
        distance = tokens[:, None] - tokens
        is_visible = (distance if case.causal else distance.abs()) >= 0
        is_visible &= distance.abs() < (case.window or case.length)
        for a in case.probabilities(q, k, b):
            for i, (row, keys) in enumerate(zip(a, is_visible)):
                row, c, number = row[keys], int(keys.sum()), int(keys[: i + 1].sum())
                if c <= 16:
                    continue
                ladder = torch.tensor(THRESHOLDS, dtype=torch.float64)[:, None]
                low_enough = ladder[(row > ladder).sum(1) <= 8]
                certain = row > (low_enough.min() if len(low_enough) else 0.07)
                draws = (16 - int(certain.sum())) // 2 * 2
                running = row.masked_fill(certain, 0).cumsum(0)
                points = (torch.arange(draws) + (0.6180339887498949 * number) % 1) / draws
                nearest = min(
                    nearest,
                    float((running / running[-1] - points[:, None]).abs().min()),
                    float((row / ladder - 1).abs().min()),
                )
    return nearest


def without_ties(case: Case, dtype: torch.dtype = torch.float64) -> Case:
    """Returns the case with the first seed for which rounding does not move a draw of the problem in this dtype."""
    candidates = (replace(case, seed=seed) for seed in count())
    return next(candidate for candidate in candidates if nearest_tie(candidate, dtype) > 1e-5)


LONG = {
    "half": Case(batch=1, kv_heads=1, length=34),
    "interleaved, odd blocks": Case(batch=1, kv_heads=1, length=34, size=20, rotation="interleaved"),
    "partial, several documents": Case(length=33, group=1, rotation="partial", padding="left"),
    "after the rotation": Case(batch=1, kv_heads=1, length=34, before=False),
    "norm": Case(batch=1, kv_heads=1, length=34, norm=True, size=12),
    "soft cap, norm": Case(batch=1, kv_heads=1, length=34, softcap=2.0, norm=True),
    "window": Case(batch=1, kv_heads=1, group=1, length=80, window=18),
    "some padding": Case(batch=1, kv_heads=1, length=50, padding="some"),
    "large scores": Case(batch=1, kv_heads=1, length=34, query_factor=20),
    "small scores": Case(batch=1, kv_heads=1, length=34, query_factor=1e-3),
    "key bias": Case(batch=1, kv_heads=1, group=1, length=34, key_bias=20, rotation=None, size=4),
    "tiles of keys": Case(batch=1, kv_heads=1, group=1, length=80, size=4),
    "sinks": Case(batch=1, kv_heads=1, length=34, sinks=(-1.0, 4.0)),
    "sinks, soft cap, norm": Case(batch=1, kv_heads=1, length=34, sinks=(-1.0, 4.0), softcap=2.0, norm=True),
    "sinks, large scores": Case(batch=1, kv_heads=1, length=34, sinks=(0.0, 60.0), query_factor=20),
    "both sides": Case(batch=1, kv_heads=1, length=34, causal=False),
    "both sides, biases": Case(batch=1, kv_heads=1, length=34, causal=False, bias="shared", rotation=None),
    "biases, norm": Case(batch=1, kv_heads=1, length=34, bias="own", norm=True),
    "both sides, window, padding": Case(
        batch=1, kv_heads=1, group=1, length=80, window=14, padding="some", causal=False
    ),
}


@pytest.mark.parametrize("case", LONG.values(), ids=LONG)
def test_backends_equal_the_reference_where_draws_cannot_move(estimating, case):
    check(without_ties(fitting(case, estimating)), torch.float32, estimating)


@pytest.mark.parametrize(
    "case",
    [
        Case(batch=1, length=300, size=16),
        Case(batch=1, length=300, size=16, norm=True, softcap=5.0, window=200),
        Case(batch=1, length=300, size=16, query_factor=5),
        Case(batch=1, length=300, size=16, sinks=(-1.0, 4.0)),
        Case(batch=1, length=300, size=16, causal=False),
    ],
)
def test_long_rows_equal_the_reference_up_to_rounding(estimating, case):
    """A different choice of draws would change the median neuron by its spread, at least 3e-3 of its value."""
    if is_interpreted(estimating):
        pytest.skip("too slow in Triton's interpreter")
    actual, plain = estimate(case, estimating, torch.float32), estimate(case)
    for value, plain_value, spread in zip(actual[:2], plain, plain[2:]):
        difference = (value.double() - plain_value).abs()
        assert (difference / plain_value).median() < 1e-5
        assert (spread / plain_value).median() > 1e-3
        assert (difference <= spread + 1e-5 * plain_value).all()
    for spread, plain_value in zip(actual[2:], plain[2:]):
        assert ((spread.double() - plain_value).abs() / plain_value).median() < 1e-4


@pytest.mark.parametrize("case", [Case(length=200, size=16), Case(length=200, size=32, norm=True, query_factor=3)])
def test_spreads_are_calibrated(estimating, case):
    if is_interpreted(estimating):
        pytest.skip("too slow in Triton's interpreter")
    exact = all_keys(case.problem())
    actual = estimate(case, estimating, torch.float32)
    for value, truth, spread in zip(actual[:2], exact, actual[2:]):
        size = (value.double() - truth).abs() / spread
        assert (size <= 2).double().mean() >= 0.9, "spreads are too small"
        assert (size <= 0.5).double().mean() <= 0.75, "spreads are too large"


def test_padding_and_position_change_nothing(estimating):
    """The tokens have other positions, with padding between them, in a batch with another document."""
    case = without_ties(share_kernels(replace(SMALL, rotation=None), estimating))
    alone = case.problem(torch.float32)
    length = case.length
    places = 3 * torch.arange(length) + 2
    padded = [x if x is None else torch.full((2, 1, 4 * length, case.size), torch.nan) for x in alone[:4]]
    valid = torch.zeros(2, 4 * length, dtype=torch.bool)
    valid[0, places] = valid[1, : length - 8] = True
    for x, values in zip(padded, alone):
        x[0, :, places], x[1, :, : length - 8] = values[0], values[0, :, 8:]
    actual = qk_importance(*padded, valid=valid, scale=case.size**-0.5, mode="fast", backend=estimating)
    expected = estimate(case, estimating, torch.float32)
    for value, expected_value in zip(actual, expected):
        torch.testing.assert_close(value[:1], expected_value, rtol=1e-5, atol=1e-9)


# In "scores of 1e4" one key has all of A, and the keys that gain probability without a neuron are not drawn. So the
# magnitude is only right if most rows have at most 16 keys.
EXTREME = {**EXTREME, "scores of 1e4": replace(EXTREME["scores of 1e4"], length=20)}


@pytest.mark.parametrize("case", EXTREME.values(), ids=EXTREME)
def test_extreme_inputs_give_finite_results_of_the_right_magnitude(estimating, case):
    """The error of the median neuron is below 50%. The estimate misses changes at keys of the smallest A."""
    case = fitting(case, estimating)
    problem = case.problem(torch.float32)
    actual = importance(problem, mode="fast", backend=estimating)
    for value in actual:
        assert value.isfinite().all() and (value >= 0).all()
    exact = all_keys(to_dtype(problem, torch.float64))
    for value, truth in zip(actual[:2], exact):
        assert ((value.double() - truth).abs() / truth).median() < 0.5


@pytest.mark.parametrize("strength", [60.0, 400.0])
def test_a_neuron_that_dominates_its_head_is_the_largest(estimating, strength):
    case = fitting(Case(batch=1, kv_heads=1, group=1, length=50, rotation=None), estimating)
    problem = case.problem()
    problem.q[..., 3], problem.k[..., 3] = strength, torch.linspace(-1, 1, case.length).square()
    single = to_dtype(problem._replace(q_plain=problem.q, k_plain=problem.k), torch.float32)
    for value in importance(single, mode="fast", backend=estimating)[:2]:
        assert int(value.argmax()) == 3


@pytest.mark.parametrize("which", [0, 1])
def test_nan_makes_its_head_nan(estimating, which):
    case = share_kernels(Case(length=28, kv_heads=1, group=1), estimating)
    problem = case.problem(torch.float32)
    problem[which][0, 0, 25, 2] = torch.nan
    actual = importance(problem, mode="fast", backend=estimating)
    assert actual.q[0].isnan().all() and actual.k[0].isnan().all()
    assert actual.q_error[0].isnan().all() and actual.k_error[0].isnan().all()
    assert all(value[1].isfinite().all() for value in actual)


def test_no_tokens_have_no_importance(estimating):
    for case in (Case(length=0), Case(batch=0)):
        for value in estimate(case, estimating, torch.float32):
            assert value.shape[0] == case.batch and not value.any()


@pytest.mark.parametrize("case", [Case(length=90, size=20), Case(length=90, size=20, norm=True, softcap=5.0)])
def test_the_number_of_threads_changes_no_bit(estimating, two_threads, case):
    if estimating != "cpp":
        pytest.skip(
            "PyTorch's matrix products depend on the number of threads, and Triton kernels do not use CPU threads"
        )
    two = estimate(case, estimating, torch.float32)
    torch.set_num_threads(1)
    assert all(map(torch.equal, two, estimate(case, estimating, torch.float32)))


# --- the interface -------------------------------------------------------------------------------------------------


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="fast"):
        importance(SMALL.problem(), mode="faster")


def test_float64_results_for_float64_input():
    assert all(value.dtype == torch.float64 for value in estimate(SMALL))


def test_is_a_torch_operator_and_compiles():
    case = Case(length=20, size=4, norm=True, group=1, sinks=(-1.0, 1.0))
    args = tuple(case.problem(torch.float32))
    torch.library.opcheck(torch.ops.pymultiling.qk_estimate.default, args)
    compiled = torch.compile(lambda *a: torch.ops.pymultiling.qk_estimate(*a), fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*args), torch.ops.pymultiling.qk_estimate(*args)))
