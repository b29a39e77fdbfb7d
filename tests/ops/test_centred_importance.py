"""centred_importance against its definition: zero one dimension of the projection and recompute norm and attention."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import layer_norm

from pymultiling.errors import BackendUnavailable
from pymultiling.ops import centred_importance
from tests.support import qk_cases
from tests.support.backends import BACKENDS, running_on
from tests.support.error_budget import assert_within_budget, relative_error

Q_EPS, K_EPS = 1e-5, 1e-3


@dataclass(frozen=True)
class Case(qk_cases.Case):
    """An attention layer whose heads pass a LayerNorm."""

    own_norms: bool = False  # whether each head has its own norm

    def weights(self):
        """Returns the weights of the queries' and of the keys' norm, as the operator takes them."""
        torch.manual_seed(self.seed + 1)
        heads = (self.kv_heads * self.group, self.kv_heads)
        return [
            0.5 + torch.rand(*((count,) if self.own_norms else ()), self.size, dtype=torch.float64) for count in heads
        ]

    def layer_normed(self, x, site):
        """Applies the norm to x (B, heads, l, d), with a bias."""
        weight = self.weights()[site]
        y = layer_norm(x, (self.size,), eps=(Q_EPS, K_EPS)[site])
        return y * (weight[:, None] if self.own_norms else weight) + 0.3

    def positional(self, dtype=torch.float64):
        """Returns the operator's tensors, from `query` to `valid`, in the order of its arguments."""
        raw = self.projections()
        query, key = (self.rotated(self.layer_normed(x, site)) for site, x in enumerate(raw))
        projected = (x.transpose(1, 2).flatten(2) for x in raw)
        cos, sin = self.tables()
        tensors = (query, key, *projected, *self.weights(), cos, sin)
        return [x if x is None else x.to(dtype) for x in tensors] + [self.valid()]

    def settings(self):
        """Returns the operator's other arguments."""
        return {
            "q_eps": Q_EPS,
            "k_eps": K_EPS,
            "scale": self.size**-0.5,
            "window": self.window,
            "softcap": self.softcap,
            "interleaved": self.rotation == "interleaved",
        }


@dataclass(frozen=True)
class Shifted(Case):
    """Its projections have a mean, and are numbers of float32."""

    mean: float = 0

    def projections(self):
        return tuple((x + self.mean * self.scales(x)).float().double() for x in super().projections())

    def scales(self, x):
        """Returns the factor of every dimension of x."""
        scales = torch.ones_like(x[..., :1, :])
        scales[..., 1] = self.neuron_factor
        return scales


def by_definition(case):
    """Returns the importance of the query neurons (B, H d) and of the key neurons (B, K d) by its definition.

    One dimension of one head after the other is zeroed, and norm, rotation and attention are recomputed.
    """
    raw = case.projections()

    def probabilities(zero=None):
        """Returns the probabilities of each document with dimension `zero` (site, head, dimension) zeroed."""
        heads = []
        for site, x in enumerate(raw):
            x = x.clone()
            if zero is not None and zero[0] == site:
                x[:, zero[1], :, zero[2]] = 0
            heads.append(case.rotated(case.layer_normed(x, site)))
        return [case.probabilities(*heads, b) for b in range(case.batch)]

    whole, results = probabilities(), []
    for site, x in enumerate(raw):
        change = torch.zeros(case.batch, x.shape[1], case.size, dtype=torch.float64)
        for h in range(x.shape[1]):
            for n in range(case.size):
                for b, without in enumerate(probabilities((site, h, n))):
                    change[b, h, n] = (without - whole[b]).square().sum()
        results.append(change.flatten(1))
    return results


CASES = {
    "half": Case(),
    "interleaved": Case(rotation="interleaved"),
    "partial": Case(rotation="partial"),
    "no rotation, odd size": Case(rotation=None, size=5),
    "a norm for each head": Case(own_norms=True, group=3),
    "soft cap": Case(softcap=1.5),
    "window, left padding": Case(window=4, padding="left"),
    "some padding": Case(padding="some", seed=2),
    "a document of padding": Case(padding="whole document"),
    "one token": Case(length=1),
    "peaked attention": Case(query_factor=3, length=20, own_norms=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_is_what_zeroing_a_dimension_does(case):
    results = centred_importance(*case.positional(), **case.settings())
    for actual, exact in zip(results, by_definition(case)):
        assert actual.dtype == torch.float64 and relative_error(actual, exact) < 1e-8


@pytest.fixture(params=[name for name in BACKENDS if name.startswith("cpp")])
def cpp(request):
    """Runs the test with each instruction set of the C++ kernels."""
    with running_on(request.param) as name:
        yield name


LONG = {
    "several tiles": Case(length=70, size=20),
    "wide heads, soft cap": Case(length=40, size=40, softcap=30.0, window=17),
    "large means": Shifted(length=20, mean=30),
    "grouped, left padding": Case(length=33, kv_heads=2, group=3, padding="left"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", (CASES | LONG).values(), ids=CASES | LONG)
def test_kernels_equal_plain_pytorch_within_the_budget(cpp, case, dtype):
    tensors, settings = case.positional(dtype), case.settings()
    widened = [x.double() if x is not None and x.is_floating_point() else x for x in tensors]
    exact = centred_importance(*widened, **settings, backend="torch")
    plain = centred_importance(*tensors, **settings, backend="torch")
    arguments = (*tensors[:6], Q_EPS, K_EPS, *tensors[6:], settings["scale"], case.window, case.softcap)
    for actual, p, e in zip(centred_importance(*tensors, **settings, backend=cpp), plain, exact):
        assert actual.dtype == torch.float32
        assert_within_budget("centred_importance", actual, p, e, arguments)


def test_heads_in_which_one_dimension_has_nearly_all_of_the_variance_take_plain_pytorch():
    """The terms of the kernel cancel there.

    `test_float32_keeps_the_digits_of_small_and_dominating_neurons` checks the values.
    """
    tensors, settings = (case := Shifted(neuron_factor=1e3)).positional(torch.float32), case.settings()
    with pytest.raises(BackendUnavailable, match="no dimension has nearly all of the variance"):
        centred_importance(*tensors, **settings, backend="cpp")
    plain = centred_importance(*tensors, **settings, backend="torch")
    assert all(map(torch.equal, centred_importance(*tensors, **settings), plain))


def test_padding_does_not_choose_the_backend(cpp):
    tensors, settings = (case := Case(padding="left")).positional(torch.float32), case.settings()
    expected = centred_importance(*tensors, **settings, backend=cpp)
    for x in tensors[2:4]:
        x[~tensors[8]] = torch.tensor([1e6] + (x.shape[-1] - 1) * [0.0])
    assert all(map(torch.equal, centred_importance(*tensors, **settings, backend=cpp), expected))


def test_heads_of_one_dimension_have_no_importance(cpp):
    case = Case(size=1, rotation=None)
    for importance in centred_importance(*case.positional(torch.float32), **case.settings(), backend=cpp):
        assert not importance.any()


def test_the_number_of_threads_changes_no_bit(cpp, two_threads):
    case = Case(length=70)
    tensors, settings = case.positional(torch.float32), case.settings()
    two = centred_importance(*tensors, **settings, backend=cpp)
    torch.set_num_threads(1)
    assert all(map(torch.equal, two, centred_importance(*tensors, **settings, backend=cpp)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_inputs_are_summed_in_float32(dtype):
    case = Case(length=9, size=6)
    narrow = case.positional(dtype)
    in_float64 = [x.double() if x is not None and x.is_floating_point() else x for x in narrow]
    exact = centred_importance(*in_float64, **case.settings())
    for actual, exact_value in zip(centred_importance(*narrow, **case.settings()), exact):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), exact_value, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("mean", [0, 10, 1000])
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_float32_keeps_the_digits_of_small_and_dominating_neurons(factor, mean):
    """Dimension 1 of every head is `factor` times as large as the others, whose mean is `mean`.

    The relative error of every neuron may be 150 roundings of float32. No floor hides the small ones.
    """
    case = Shifted(neuron_factor=factor, mean=mean)
    results = centred_importance(*case.positional(torch.float32), **case.settings(), backend="torch")
    for actual, exact in zip(results, by_definition(case)):
        assert ((actual.double() - exact).abs() / exact).max() < 150 * torch.finfo(torch.float32).eps / 2


def test_each_document_may_have_its_own_tables():
    case = Case(batch=1)
    tensors = case.positional()
    late = [x.roll(3, 1) for x in tensors[6:8]]
    both = [torch.cat([x, x]) for x in tensors[:4]] + tensors[4:6]
    both += [torch.cat(pair) for pair in zip(tensors[6:8], late)] + [torch.cat([tensors[8]] * 2)]
    together = centred_importance(*both, **case.settings())
    alone = centred_importance(*tensors[:6], *late, tensors[8], **case.settings())
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1:], b, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_padding_is_not_read(dtype):
    case = Case(padding="some")
    tensors = case.positional(dtype)
    expected = centred_importance(*tensors, **case.settings())
    valid = tensors[8]
    for x in tensors[:4]:
        (x.transpose(1, 2) if x.ndim == 4 else x)[~valid] = torch.nan
    assert all(map(torch.equal, centred_importance(*tensors, **case.settings()), expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", [Case(length=0), Case(batch=0)])
def test_no_tokens_have_no_importance(case, dtype):
    for importance in centred_importance(*case.positional(dtype), **case.settings()):
        assert importance.shape[0] == case.batch and not importance.any()


def test_all_tokens_are_valid_by_default():
    case = Case(length=5)
    tensors = case.positional()
    explicit = centred_importance(*tensors, **case.settings())
    default = centred_importance(*tensors[:8], **case.settings())
    assert all(map(torch.equal, explicit, default))


@pytest.mark.parametrize(
    "place, wrong",
    [
        (0, torch.ones(1, 4, 8, dtype=torch.float64)),
        (1, torch.ones(1, 3, 4, 8, dtype=torch.float64)),
        (1, torch.ones(1, 1, 4, 8)),
        (2, torch.ones(1, 4, 8, dtype=torch.float64)),
        (3, torch.ones(1, 4, 8, dtype=torch.int64)),
        (4, torch.ones(7, dtype=torch.float64)),
        (5, torch.ones(2, 8, dtype=torch.float64)),
        (6, None),
        (7, torch.ones(1, 4, 6, dtype=torch.float64)),
        (8, torch.ones(1, 4)),
    ],
)
def test_wrong_arguments_are_refused(place, wrong):
    case = Case(batch=1, kv_heads=1, length=4)
    tensors = case.positional()
    tensors[place] = wrong
    with pytest.raises(ValueError, match="must"):
        centred_importance(*tensors, **case.settings())


@pytest.mark.parametrize("wrong", [{"window": 0}, {"softcap": -1.0}])
def test_wrong_limits_are_refused(wrong):
    case = Case(batch=1, kv_heads=1, length=4)
    with pytest.raises(ValueError, match="must"):
        centred_importance(*case.positional(), **{**case.settings(), **wrong})


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_backends_without_a_kernel_are_refused(backend):
    case = Case(length=3)
    with pytest.raises(BackendUnavailable, match=r'cannot run centred_importance: .*; backend="torch" always can'):
        centred_importance(*case.positional(torch.float32), **case.settings(), backend=backend)


def test_is_a_torch_operator_and_compiles():
    rotated = Case(length=5, size=4, softcap=2.0)
    for case in (rotated, replace(rotated, rotation=None, own_norms=True)):
        tensors, settings = case.positional(torch.float32), case.settings()
        *tables, valid = tensors[6:]
        inputs = (*tensors[:6], settings.pop("q_eps"), settings.pop("k_eps"), *tables, valid, *settings.values())
        operator = torch.ops.pymultiling.centred_importance
        torch.library.opcheck(operator.default, inputs)
        compiled = torch.compile(lambda *a, run=operator: run(*a), fullgraph=True, backend="aot_eager")
        assert all(map(torch.equal, compiled(*inputs), operator(*inputs)))
