"""normed_value_energy against its definition: zero one dimension of the values, and recompute norms and output."""

from dataclasses import dataclass
from unittest import mock

import pytest
import torch

from pymultiling.errors import BackendUnavailable
from pymultiling.ops import normed_value_energy
from pymultiling.ops.reference import normed_value_energy as reference
from tests.support import qk_cases
from tests.support.error_budget import relative_error

V_EPS, EPS = 1e-6, 1e-5
ROUNDOFF = torch.finfo(torch.float32).eps / 2


@dataclass(frozen=True)
class Case(qk_cases.Case):
    """An attention layer whose values pass a norm, and whose output does so with `post_norm`."""

    rotation: str | None = None
    value_size: int = 6
    outputs: int = 10
    post_norm: bool = True
    output_bias: float = 0.0  # of o_proj
    value_factor: float = 1.0  # of dimension 1 of every value head
    counts_some: bool = False  # whether only some queries count
    scales: bool = False  # whether inputs of o_proj are multiplied, each document's by its own factors

    def values(self):
        """Returns x (B, K, l, d), the values as projected, which are numbers of float32."""
        torch.manual_seed(self.seed + 1)
        x = torch.randn(self.batch, self.kv_heads, self.length, self.value_size)
        x[..., 1:2] *= self.value_factor
        return x.double()

    def weight(self):
        """Returns W of o_proj, (D, H d), which are numbers of float32."""
        torch.manual_seed(self.seed + 2)
        return torch.randn(self.outputs, self.kv_heads * self.group * self.value_size).double()

    def multiplier(self):
        """Returns (D,), by which the norm of the output multiplies."""
        return torch.linspace(0.5, 2.0, self.outputs).double()

    def counted(self):
        """Returns (B, l) bool, the queries that count."""
        if not self.counts_some:
            return self.valid()
        torch.manual_seed(self.seed + 3)
        return self.valid() & (torch.rand(self.batch, self.length) < 0.5)

    def factors(self):
        """Returns (B, H d), by which the inputs of o_proj are multiplied: 0 for some."""
        torch.manual_seed(self.seed + 4)
        drawn = torch.rand(self.batch, self.weight().shape[1]).double()
        return drawn.masked_fill(drawn < 0.3, 0) if self.scales else torch.ones_like(drawn)

    def output(self, x):
        """Returns f, (B, l, D), for the values x. Padding has zeros."""
        u = x * (x.square().mean(-1, keepdim=True) + V_EPS).rsqrt()
        f = torch.zeros(self.batch, self.length, self.outputs, dtype=torch.float64)
        for b, valid in enumerate(self.valid()):
            tokens = valid.nonzero().squeeze(1)
            a = self.probabilities(*self.heads(), b)
            attended = a @ u[b][:, tokens].repeat_interleave(self.group, 0)
            f[b, tokens] = (
                attended.transpose(0, 1).flatten(1) * self.factors()[b]
            ) @ self.weight().T + self.output_bias
        return f

    def heads(self):
        """Returns queries and keys, which are numbers of float32."""
        return [x.float().double() for x in self.projections()]

    def growth(self, x):
        """Returns r / r' - 1 of every value."""
        r2 = x.square().mean(-1, keepdim=True) + V_EPS
        rest = torch.stack([x.index_fill(-1, torch.tensor(i), 0) for i in range(x.shape[-1])], -1)
        return (r2 / (rest.square().mean(-2) + V_EPS)).sqrt() - 1

    def positional(self, dtype=torch.float64):
        """Returns the operator's tensors, in the order of its arguments."""
        x = self.values()
        u = x * (x.square().mean(-1, keepdim=True) + V_EPS).rsqrt()
        tensors = [y.to(dtype) for y in (*self.heads(), u, self.growth(x), self.weight())]
        norm = [y.to(dtype) for y in (self.output(x), self.multiplier())] if self.post_norm else [None, None]
        factors = self.factors().to(dtype) if self.scales else None
        return [*tensors, self.valid(), self.counted() if self.counts_some else None, factors, *norm]

    def settings(self):
        """Returns the operator's other arguments."""
        limits = {"scale": self.size**-0.5, "window": self.window, "softcap": self.softcap, "causal": self.causal}
        return {"eps": EPS, **limits}


def by_definition(case):
    """Returns the importance (B, K d) by its definition, one neuron after the other."""

    def sublayer(x):
        f = case.output(x)
        if not case.post_norm:
            return f
        return f * (f.square().mean(-1, keepdim=True) + EPS).rsqrt() * case.multiplier()

    x = case.values()
    whole, change = sublayer(x), torch.zeros(case.batch, case.kv_heads, case.value_size, dtype=torch.float64)
    for h in range(case.kv_heads):
        for i in range(case.value_size):
            without = x.clone()
            without[:, h, :, i] = 0
            squares = (sublayer(without) - whole).square().sum(-1)
            change[:, h, i] = squares.masked_fill(~case.counted(), 0).sum(1)
    return change.flatten(1)


CASES = {
    "a norm behind": Case(),
    "no norm behind": Case(post_norm=False),
    "a bias of the output": Case(output_bias=3.0),
    "one query head for each value head, odd sizes": Case(group=1, kv_heads=3, value_size=5, size=7, outputs=13),
    "a window": Case(window=4, padding="left"),
    "soft cap": Case(softcap=1.5, group=3),
    "some padding": Case(padding="some", seed=2),
    "right padding": Case(padding="right"),
    "a document of padding": Case(padding="whole document"),
    "some queries count": Case(counts_some=True, padding="left"),
    "some queries count, no norm behind": Case(counts_some=True, post_norm=False),
    "scaled inputs of o_proj": Case(scales=True, group=3),
    "both sides": Case(causal=False, padding="some"),
    "both sides, a window": Case(causal=False, window=3),
    "one token": Case(length=1),
    "values of one dimension": Case(value_size=1),
    "a large value": Case(value_factor=100.0),
    "peaked attention": Case(query_factor=3, length=20),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_is_what_zeroing_a_value_does(case):
    actual = normed_value_energy(*case.positional(), **case.settings())
    assert actual.dtype == torch.float64 and relative_error(actual, by_definition(case)) < 1e-9


@each_case
def test_float32_keeps_its_digits(case):
    """Where a value is nearly all of its head, the terms of the change are 1 + growth times as large as the change."""
    tensors = case.positional(torch.float32)
    actual, exact = normed_value_energy(*tensors, **case.settings()), by_definition(case)
    growth = case.growth(case.values()).max().item()
    assert actual.dtype == torch.float32
    assert relative_error(actual, exact) < 20 * (1 + growth) * ROUNDOFF


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3])
@pytest.mark.parametrize("post_norm", [True, False])
def test_small_and_dominating_values_keep_their_digits(factor, post_norm):
    """Dimension 1 of every head is `factor` times as large as the others. No floor hides the small ones."""
    case = Case(value_factor=factor, post_norm=post_norm)
    actual, exact = normed_value_energy(*case.positional(torch.float32), **case.settings()), by_definition(case)
    growth = case.growth(case.values()).max().item()
    assert ((actual.double() - exact).abs() / exact).max() < 20 * (1 + growth) * ROUNDOFF


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_summed_in_float32(dtype):
    narrow, settings = (case := Case(length=9)).positional(dtype), case.settings()
    widened = [x.double() if x is not None and x.is_floating_point() else x for x in narrow]
    actual, exact = normed_value_energy(*narrow, **settings), normed_value_energy(*widened, **settings)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=0)


BLOCKS = {"BLOCK_NUMBERS": 50, "OUTPUTS": 3, "ROWS": 2}
BLOCK_CASES = {name: CASES[name] for name in ("a norm behind", "a window", "both sides", "both sides, a window")}


@pytest.mark.parametrize("case", BLOCK_CASES.values(), ids=BLOCK_CASES)
def test_blocks_change_nothing_but_the_order_of_sums(case):
    tensors, settings = case.positional(), case.settings()
    whole = normed_value_energy(*tensors, **settings)
    for sizes in (BLOCKS, {"OUTPUTS": 3}, {"ROWS": 5}, {"BLOCK_NUMBERS": 1}):
        with mock.patch.multiple(reference, **sizes):
            torch.testing.assert_close(normed_value_energy(*tensors, **settings), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("limits", [{}, {"window": 40}, {"causal": False}, {"causal": False, "window": 40}])
def test_no_block_is_larger_than_the_limit(limits, monkeypatch):
    """The largest tensor that a product returns, in a document of 300 tokens, for a limit below its smallest block."""
    case, sizes = Case(batch=1, length=300, size=2, value_size=4, outputs=30, post_norm=False, **limits), []
    matmul = torch.Tensor.__matmul__

    def recorded(a, b):
        sizes.append((result := matmul(a, b)).numel())
        return result

    tensors = case.positional(torch.float32)
    monkeypatch.setattr(reference, "BLOCK_NUMBERS", 2**14)
    monkeypatch.setattr(torch.Tensor, "__matmul__", recorded)
    normed_value_energy(*tensors, **case.settings())
    assert len(sizes) > 50 and max(sizes) <= 2**14


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("padding", ["left", "right", "some"])
def test_padding_is_not_read(padding, dtype):
    case = Case(padding=padding, counts_some=True)
    tensors = case.positional(dtype)
    expected = normed_value_energy(*tensors, **case.settings())
    for x in (*tensors[:4], tensors[8]):
        (x.transpose(1, 2) if x.ndim == 4 else x)[~tensors[5]] = torch.nan
    assert torch.equal(normed_value_energy(*tensors, **case.settings()), expected)


def test_nan_stays_in_its_document_and_a_score_without_a_probability_is_one():
    tensors, settings = (case := Case()).positional(), case.settings()
    for place, value in ((0, torch.inf), (2, torch.nan), (8, torch.nan)):
        changed = [None if x is None else x.clone() for x in tensors]
        changed[place][0, 1, 3] = value
        energy = normed_value_energy(*changed, **settings)
        assert energy[0].isnan().any() and energy[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", [Case(length=0), Case(batch=0)])
def test_no_tokens_have_no_importance(case, dtype):
    energy = normed_value_energy(*case.positional(dtype), **case.settings())
    assert energy.shape == (case.batch, case.kv_heads * case.value_size) and not energy.any()


def test_all_tokens_are_valid_by_default():
    tensors, settings = (case := Case(length=5)).positional(), case.settings()
    default = normed_value_energy(*tensors[:5], output=tensors[8], multiplier=tensors[9], **settings)
    assert torch.equal(normed_value_energy(*tensors, **settings), default)


@pytest.mark.parametrize(
    "place, wrong, message",
    [
        (0, torch.ones(1, 4, 8).double(), "q must be"),
        (1, torch.ones(1, 3, 4, 8).double(), "multiple of the number of key heads"),
        (2, torch.ones(1, 2, 4, 6).double(), "v must be"),
        (2, torch.ones(1, 1, 4, 6).int(), "v must be floating point"),
        (3, torch.ones(1, 1, 4, 5).double(), "growth must be"),
        (4, torch.ones(10, 11).double(), "weight must have H d = 12 columns"),
        (4, torch.ones(10, 12), "all tensors must be float64, or none of them"),
        (5, torch.ones(1, 4), "valid must be bool"),
        (6, torch.ones(1, 5).bool(), "counted must be bool"),
        (7, torch.ones(1, 11).double(), "factors must be"),
        (8, torch.ones(1, 4, 9).double(), "output must be floating point"),
        (8, None, "output and multiplier must be given together"),
        (9, None, "output and multiplier must be given together"),
        (9, torch.ones(9).double(), "multiplier must be floating point"),
    ],
)
def test_wrong_arguments_are_refused(place, wrong, message):
    case = Case(batch=1, kv_heads=1, length=4)
    tensors = case.positional()
    tensors[place] = wrong
    with pytest.raises(ValueError, match=message):
        normed_value_energy(*tensors, **case.settings())


@pytest.mark.parametrize("wrong", [{"window": 0}, {"softcap": -1.0}])
def test_wrong_limits_are_refused(wrong):
    case = Case(batch=1, kv_heads=1, length=4)
    with pytest.raises(ValueError, match="must"):
        normed_value_energy(*case.positional(), **{**case.settings(), **wrong})


@pytest.mark.parametrize("backend", ["triton", "cuda", "cpp"])
def test_backends_without_a_kernel_are_refused(backend):
    case = Case(length=3)
    with pytest.raises(BackendUnavailable, match=r'cannot run normed_value_energy: .*; backend="torch" always can'):
        normed_value_energy(*case.positional(torch.float32), **case.settings(), backend=backend)


def test_is_a_torch_operator_and_compiles():
    for case in (Case(length=5, softcap=2.0, scales=True), Case(length=5, post_norm=False, counts_some=True)):
        tensors, settings = case.positional(torch.float32), case.settings()
        inputs = (*tensors, *settings.values())
        operator = torch.ops.pymultiling.normed_value_energy
        torch.library.opcheck(operator.default, inputs)
        compiled = torch.compile(lambda *a, run=operator: run(*a), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(*inputs), operator(*inputs))
