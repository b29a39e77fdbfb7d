"""whole_norm_importance against its definition: attention scores and softmax without each neuron, in float64."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from pymultiling import ops
from pymultiling.errors import BackendUnavailable
from pymultiling.ops.reference import whole_norm_importance as whole_norm
from tests.support.backends import BACKENDS, running_on
from tests.support.error_budget import assert_within_budget

EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """Rotated queries and keys, and rescaling factors of a norm over all heads, drawn from a seed."""

    heads: int = 4
    kv_heads: int = 4
    length: int = 40
    size: int = 8
    query_factor: float = 1
    key_bias: float = 0
    largest: float = 1  # factor of the raw projection of neuron 3
    width: int = 1  # the norm covers this many times the measured neurons: the more, the smaller t
    rescale: float | None = None  # a single value of t for all neurons
    window: int | None = None
    softcap: float | None = None

    def arguments(self, dtype=torch.float64):
        torch.manual_seed(0)
        q = self.query_factor * torch.randn(2, self.heads, self.length, self.size, dtype=torch.float64)
        k = torch.randn(2, self.kv_heads, self.length, self.size, dtype=torch.float64)
        k = k + self.key_bias * torch.randn(1, self.kv_heads, 1, self.size).sign()
        rescale = self.rescaling(self.heads), self.rescaling(self.kv_heads)
        return (q.to(dtype), k.to(dtype), *rescale, self.valid(), self.size**-0.5, self.window, self.softcap)

    def rescaling(self, heads):
        """Returns t of every neuron of `heads` heads, (2, length, heads size)."""
        x = torch.randn(2, self.length, heads * self.size, dtype=torch.float64)
        if self.rescale is not None:
            return torch.full_like(x, self.rescale)
        x[..., 3] *= self.largest
        r2 = x.square().mean(-1, keepdim=True) + EPS
        return (r2 / (r2 - x.square() / (self.width * x.shape[-1]))).sqrt() - 1

    def valid(self):
        valid = torch.ones(2, self.length, dtype=torch.bool)
        if self.length > 5:
            valid[0, : self.length // 3] = False
            valid[1, -3:] = False
        return valid


def whole_norm_importance(q, k, q_rescale, k_rescale, valid, scale, window, softcap, **options):
    limits = {"scale": scale, "window": window, "softcap": softcap}
    return ops.whole_norm_importance(q, k, q_rescale, k_rescale, valid, **limits, **options)


def by_definition(q, k, q_rescale, k_rescale, valid, scale, window, softcap):
    """Returns the importance of the query neurons (B, H d) and of the key neurons (B, K d), one neuron at a time.

    All is computed in float64. The arguments are those of the torch operator.
    """
    heads, size = q.shape[1], q.shape[3]
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)
    length = q.shape[2]
    visible = torch.ones(length, length, dtype=torch.bool).tril()
    if window is not None:
        visible = visible.triu(1 - window)
    changes = []
    for rescale, by_row in ((q_rescale, True), (k_rescale, False)):
        change = torch.zeros(rescale.shape[0], rescale.shape[2], dtype=torch.float64)
        group = heads // (rescale.shape[2] // size)  # number of query heads that share the head of a neuron
        for b in range(len(valid)):
            scores = scale * q[b] @ k[b].mT
            allowed = visible & valid[b]

            probabilities = partial(valid_probabilities, allowed=allowed, valid=valid[b], softcap=softcap)

            for n in range(rescale.shape[2]):
                rho = 1 + rescale[b, :, n]
                rescaled = probabilities(scores * (rho[:, None] if by_row else rho))
                by_head = (rescaled - probabilities(scores)).square().sum((1, 2))
                by_neuron_head = by_head.unflatten(0, (-1, group))
                by_neuron_head[n // size] = 0  # the neuron's own head
                change[b, n] = by_neuron_head.sum()
        changes.append(change)
    return changes


def valid_probabilities(scores, allowed, valid, softcap):
    """Returns the attention probabilities of a document's valid queries, (H, valid queries, l).

    scores: (H, l, l), attention scores before the cap. allowed: (l, l) bool, the valid keys that a query sees. valid:
    (l,) bool.
    """
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1)[:, valid]


CASES = {
    "every key head its query head": Case(),
    "shared keys, window": Case(heads=6, kv_heads=2, window=9),
    "more rows than a block": Case(heads=2, kv_heads=2, length=150, size=4, width=50),
    "peaked attention": Case(query_factor=6, length=60),
    "wide norm": Case(width=100, length=60),
    "wide norm, peaked attention": Case(width=100, query_factor=5, length=60),
    "one neuron dominates the norm": Case(largest=1000, query_factor=2),
    "all changes 1e-6": Case(rescale=1e-6),
    "all changes 1e-6, peaked attention": Case(rescale=1e-6, query_factor=5),
    "scores with a large constant": Case(key_bias=100),
    "scores with a large constant, wide norm": Case(key_bias=100, width=100),
    "soft cap": Case(heads=4, kv_heads=2, length=20, query_factor=2, softcap=3.0),
    "two tokens": Case(length=2),
}


@pytest.mark.parametrize("dtype, allowed", [(torch.float64, 1e-6), (torch.float32, 1e-3)])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_definition_for_every_neuron(case, dtype, allowed):
    arguments = case.arguments(dtype)
    for actual, exact in zip(whole_norm_importance(*arguments), by_definition(*arguments)):
        assert actual.dtype == dtype and (exact > 0).all()
        torch.testing.assert_close(actual.double(), exact, rtol=allowed, atol=0)


@pytest.fixture(params=[name for name in BACKENDS if name.startswith("cpp")])
def cpp(request):
    """Runs the test with each instruction set of the C++ kernels."""
    with running_on(request.param) as name:
        yield name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_equal_the_definition_within_the_budget(cpp, case, dtype):
    arguments = case.arguments(dtype)
    plain = whole_norm_importance(*arguments, backend="torch")
    for actual, p, exact in zip(whole_norm_importance(*arguments, backend=cpp), plain, by_definition(*arguments)):
        assert actual.dtype == torch.float32 and (exact > 0).all()
        assert_within_budget("whole_norm_importance", actual, p, exact, (*arguments, None, None))


OWN = 3e3  # the importance in the own head, in that of the other heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["wide norm", "wide norm, peaked attention", "all changes 1e-6", "a window, wide norm"]
)
def test_beside_the_own_head_a_quadratic_form_is_enough(cpp, name, dtype):
    """What it leaves out is in the other heads' share, where it shows. Nothing is left out without the own head."""
    case = CASES.get(name, Case(heads=6, kv_heads=2, length=300, window=9, width=100))
    arguments = case.arguments(dtype)
    exact = by_definition(*arguments)
    own = [OWN * share.float() for share in exact]
    results = whole_norm_importance(*arguments, q_own=own[0], k_own=own[1], backend=cpp)
    for actual, share, base in zip(results, exact, own):
        rounding = OWN * torch.finfo(torch.float32).eps
        torch.testing.assert_close(actual.double() - base, share, rtol=5e-3 + rounding, atol=0)


def test_the_importance_in_the_own_head_is_added():
    arguments = Case(length=9).arguments(torch.float32)
    own = [torch.rand(2, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    for backend in ("torch", "cpp"):
        shares = whole_norm_importance(*arguments, backend=backend)
        sums = whole_norm_importance(*arguments, q_own=own[0], k_own=own[1].double(), backend=backend)
        for share, base, total in zip(shares, own, sums):
            torch.testing.assert_close(total, base + share, rtol=1e-4, atol=0)


def test_the_number_of_threads_changes_no_bit(cpp, two_threads):
    arguments = Case(length=300, width=100).arguments(torch.float32)
    own = {"q_own": torch.ones(2, 32), "k_own": torch.ones(2, 32)}
    for options in ({}, own):
        two = whole_norm_importance(*arguments, **options, backend=cpp)
        torch.set_num_threads(1)
        assert all(map(torch.equal, two, whole_norm_importance(*arguments, **options, backend=cpp)))
        torch.set_num_threads(2)


@pytest.mark.parametrize("case", [CASES["wide norm"], CASES["all changes 1e-6"]], ids=["wide norm", "1e-6"])
def test_small_changes_are_not_computed_key_by_key(case, monkeypatch):
    def refuse(*_):
        raise AssertionError("computed key by key")

    monkeypatch.setattr(whole_norm, "_rescaling_change", refuse)
    whole_norm_importance(*case.arguments(torch.float32), backend="torch")


@pytest.mark.parametrize("own", [None, torch.ones(2, 32)], ids=["share", "sum"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_padding_is_not_read(backend, own):
    q, k, q_rescale, k_rescale, valid, *settings = Case(width=100).arguments(torch.float32)
    options = {"q_own": own, "k_own": own, "backend": backend}
    whole = whole_norm_importance(q, k, q_rescale, k_rescale, valid, *settings, **options)
    for x in (q, k, q_rescale, k_rescale):
        (x.transpose(1, 2) if x.ndim == 4 else x)[~valid] = torch.nan
    assert all(map(torch.equal, whole_norm_importance(q, k, q_rescale, k_rescale, valid, *settings, **options), whole))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_documents_of_padding_or_of_one_token_give_zero(backend):
    q, k, q_rescale, k_rescale, valid, *settings = Case().arguments(torch.float32)
    valid[0], valid[1, 1:] = False, False
    for extra in whole_norm_importance(q, k, q_rescale, k_rescale, valid, *settings, backend=backend):
        assert torch.equal(extra, torch.zeros_like(extra))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_single_head_gives_zero(backend):
    for extra in whole_norm_importance(*Case(heads=1, kv_heads=1).arguments(torch.float32), backend=backend):
        assert torch.equal(extra, torch.zeros_like(extra))


@pytest.mark.parametrize("own", [None, torch.ones(2, 32)], ids=["share", "sum"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("broken", [0, 1, 2, 3])
def test_nan_stays_nan(broken, backend, own):
    arguments = Case(width=100).arguments(torch.float32)
    arguments[broken][1, ..., 3, :] = torch.nan
    q_extra, k_extra = whole_norm_importance(*arguments, q_own=own, k_own=own, backend=backend)
    assert (q_extra if broken != 3 else k_extra)[1].isnan().all()
    assert q_extra[0].isfinite().all() and k_extra[0].isfinite().all()


def test_bfloat16_is_summed_in_float32():
    arguments = Case().arguments(torch.bfloat16)
    for actual, exact in zip(whole_norm_importance(*arguments), by_definition(*arguments)):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("case", [Case(length=0), Case(length=1, size=5)])
def test_at_most_one_token_gives_zero(case, backend):
    results = whole_norm_importance(*case.arguments(torch.float32), backend=backend)
    for extra, heads in zip(results, (case.heads, case.kv_heads)):
        assert extra.shape == (2, heads * case.size) and not extra.any()


def test_all_tokens_are_valid_by_default():
    q, k, *rescale, valid, scale, _, _ = Case().arguments()
    explicit = ops.whole_norm_importance(q, k, *rescale, torch.ones_like(valid), scale=scale)
    assert all(map(torch.equal, explicit, ops.whole_norm_importance(q, k, *rescale, scale=scale)))


@pytest.mark.parametrize(
    "place, wrong",
    [
        (0, torch.ones(2, 4, 8)),
        (1, torch.ones(2, 3, 40, 8, dtype=torch.float64)),
        (1, torch.ones(2, 4, 40, 8)),
        (2, torch.ones(2, 40, 31)),
        (3, torch.ones(2, 40, 32, dtype=torch.int64)),
        (4, torch.ones(2, 40)),
        (6, 0),
        (7, -1.0),
    ],
)
def test_wrong_arguments_are_refused(place, wrong):
    arguments = list(Case().arguments())
    arguments[place] = wrong
    with pytest.raises(ValueError, match="must"):
        whole_norm_importance(*arguments)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_backends_without_a_kernel_are_refused(backend):
    with pytest.raises(BackendUnavailable, match=r'cannot run whole_norm_importance: .*; backend="torch" always can'):
        whole_norm_importance(*Case().arguments(torch.float32), backend=backend)


def test_is_a_torch_operator_and_compiles():
    operator = torch.ops.pymultiling.whole_norm_importance
    for case in (Case(length=6, heads=2, kv_heads=1, size=5), Case(length=6, heads=2, kv_heads=2, size=4, softcap=2.0)):
        arguments = case.arguments(torch.float32)
        torch.library.opcheck(operator.default, arguments)
        compiled = torch.compile(lambda *a: operator(*a), fullgraph=True, backend="aot_eager")
        assert all(map(torch.equal, compiled(*arguments), operator(*arguments)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_key_of_no_probability_may_get_all_of_it(dtype):
    """Scores of 200 and 100 become 400 and 500 without the neuron, so that A' = (0, 1) follows A = (1, 0)."""
    q, k = torch.tensor([[1.0, 1], [0, 0]], dtype=dtype), torch.tensor([[200.0, 100], [0, 0]], dtype=dtype)
    rescale = torch.tensor([[0.0, 1], [0, 4]], dtype=dtype)  # the second head's key neuron
    q, k, rescale = q[None, ..., None], k[None, ..., None], rescale[None]
    results = ops.whole_norm_importance(q, k, 0 * rescale, rescale, scale=1.0)
    assert results[0].tolist() == [[0, 0]]
    torch.testing.assert_close(results[1], torch.tensor([[0, 2]], dtype=dtype))
