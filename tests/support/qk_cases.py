"""Attention layers that the tests of qk_importance and qk_estimate share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops import qk_importance
from tests.support.operator_inputs import is_interpreted

EPS = 1e-6  # of the norms


@dataclass(frozen=True)
class Case:
    """The projections of an attention layer, drawn from a seed."""

    batch: int = 2
    kv_heads: int = 2
    group: int = 2
    length: int = 12
    size: int = 8
    rotation: str | None = "half"  # "half", "interleaved", "partial", None
    float32_tables: bool = False  # whether the rotation's tables are float32 in a problem of 16 bits
    before: bool = True  # whether neurons are zeroed before the rotation
    norm: bool = False
    window: int | None = None
    softcap: float | None = None
    sinks: tuple[float, float] | None = None  # the lowest and the highest score of the heads' sinks
    causal: bool = True
    bias: str | None = None  # biases of the attention scores: "own" for each document, or "shared"
    padding: str | None = None  # "left", "right", "some", "whole document": see `valid`
    key_bias: float = 0
    query_factor: float = 1
    neuron_factor: float = 1  # of dimension 1 of every head
    seed: int = 0

    def projections(self) -> tuple[Tensor, Tensor]:
        """Returns q (B, H, l, d) and k (B, K, l, d) as projected."""
        torch.manual_seed(self.seed)
        shape = (self.length, self.size)
        q = self.query_factor * torch.randn(self.batch, self.kv_heads * self.group, *shape, dtype=torch.float64)
        k = torch.randn(self.batch, self.kv_heads, *shape, dtype=torch.float64)
        bias = self.key_bias * torch.randn(1, self.kv_heads, 1, self.size, dtype=torch.float64).sign()
        k = k + bias
        for x in (q, k):
            x[..., 1:2] *= self.neuron_factor
        return q, k

    def normed(self, x: Tensor) -> Tensor:
        """Applies the norm over the head, if the case has one."""
        if not self.norm:
            return x
        weight = torch.linspace(0.5, 1.5, self.size, dtype=torch.float64)
        return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight

    def growth(self, x: Tensor) -> Tensor | None:
        """Returns by how much the rest of a head grows without each neuron (0.1: by 10%), in x's shape.

        None: the case has no norm.
        """
        if not self.norm:
            return None
        r2 = x.square().mean(-1, keepdim=True) + EPS
        return (r2 / (r2 - x.square() / self.size)).sqrt() - 1

    def tables(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Returns the cosines and the sines of the rotation, (1, l, r) each, or None without a rotation."""
        if self.rotation is None:
            return None, None
        turned = self.size // 4 * 2 if self.rotation == "partial" else self.size
        angle = torch.arange(self.length, dtype=torch.float64)[:, None] * 0.3 ** torch.arange(turned // 2)
        angle = angle.repeat_interleave(2, 1) if self.rotation == "interleaved" else angle.repeat(1, 2)
        return angle.cos()[None], angle.sin()[None]

    def rotated(self, x: Tensor) -> Tensor:
        """Rotates each pair of dimensions as a vector in the plane, independently of how the library stores pairs."""
        if self.rotation is None:
            return x
        cos, sin = self.tables()
        turned, x = cos.shape[-1], x.clone()
        first = slice(0, turned, 2) if self.rotation == "interleaved" else slice(0, turned // 2)
        second = slice(1, turned, 2) if self.rotation == "interleaved" else slice(turned // 2, turned)
        a, b = x[..., first].clone(), x[..., second].clone()
        x[..., first] = a * cos[..., first] - b * sin[..., first]
        x[..., second] = b * cos[..., second] + a * sin[..., second]
        return x

    def valid(self) -> Tensor:
        """Returns (B, l) bool, False for padding.

        Padding is, by `padding`, "left": the first third of document 0; "right": the last third of the last document;
        "some": about 30% of all tokens; "whole document": document 0.
        """
        valid = torch.ones(self.batch, self.length, dtype=torch.bool)
        third = self.length // 3
        if self.padding == "left":
            valid[0, :third] = False
        if self.padding == "right":
            valid[-1, self.length - third :] = False
        if self.padding == "some":
            torch.manual_seed(self.seed)
            valid = torch.rand(self.batch, self.length) < 0.7
        if self.padding == "whole document":
            valid[0] = False
        return valid

    def problem(self, dtype: torch.dtype = torch.float64) -> QKProblem:
        """Returns the arguments of the operators."""
        q, k = self.projections()
        plain = (self.normed(q), self.normed(k))
        rotated = tuple(map(self.rotated, plain))
        if self.before:
            tensors = (*rotated, *plain, *self.tables(), self.valid(), self.growth(q), self.growth(k))
        else:
            tensors = (*rotated, None, None, None, None, self.valid(), None, None)
        settings = (self.size**-0.5, self.window, self.softcap, self.rotation == "interleaved")
        exact = QKProblem(*tensors, *settings, self.sink_scores(), self.causal, self.biases())
        problem = to_dtype(exact, dtype)
        if self.float32_tables and exact.cos is not None:
            problem = problem._replace(cos=exact.cos.float(), sin=exact.sin.float())
        return problem

    def sink_scores(self) -> Tensor | None:
        """Returns (H,), the scores of the sinks, evenly spaced; None: there are none."""
        if self.sinks is None:
            return None
        return torch.linspace(*self.sinks, self.kv_heads * self.group, dtype=torch.float64)

    def biases(self) -> Tensor | None:
        """Returns (B or 1, H, l, l), biases of the attention scores; None: there are none."""
        if self.bias is None:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        shape = self.batch if self.bias == "own" else 1, self.kv_heads * self.group, self.length, self.length
        return 2 * torch.randn(shape, generator=generator, dtype=torch.float64)

    def probabilities(self, q: Tensor, k: Tensor, b: int) -> Tensor:
        """Returns the probabilities (H, l', l') of document b's valid tokens, from rotated queries and keys."""
        tokens = self.valid()[b].nonzero().squeeze(1)
        scores = self.size**-0.5 * q[b][:, tokens] @ k[b][:, tokens].repeat_interleave(self.group, 0).mT
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self.biases()[b % len(self.biases())][:, tokens][..., tokens]
        distance = tokens[:, None] - tokens
        hidden = distance < 0 if self.causal else torch.zeros_like(distance, dtype=torch.bool)
        if self.window is not None:
            hidden |= distance.abs() >= self.window
        scores = scores.masked_fill(hidden, -torch.inf)
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sink_scores()[:, None, None].expand(-1, len(tokens), 1)
        return torch.cat([sinks, scores], -1).softmax(-1)[..., 1:]


def brute_force(case: Case) -> list[Tensor]:
    """Returns the importance of the query neurons (B, H d) and of the key neurons (B, K d) by its definition.

    One dimension of one head after the other is zeroed, and attention is recomputed.
    """
    projections = case.projections()
    heads = (case.kv_heads * case.group, case.kv_heads)

    def layer(q: Tensor, k: Tensor, zero: tuple[int, int, int] | None = None) -> list[Tensor]:
        """Returns the probabilities of each document. `zero` (site, head, dimension) is zeroed; None: nothing is.

        Site 0 are the queries, site 1 the keys.
        """
        heads_of_site = []
        for site, x in enumerate((q, k)):
            x = x.clone()
            zeroed = None if zero is None or zero[0] != site else zero[1:]  # (head, dimension)
            if zeroed is not None and case.before:
                x[:, zeroed[0], :, zeroed[1]] = 0
            x = case.rotated(case.normed(x))
            if zeroed is not None and not case.before:
                x[:, zeroed[0], :, zeroed[1]] = 0
            heads_of_site.append(x)
        return [case.probabilities(*heads_of_site, b) for b in range(case.batch)]

    whole = layer(*projections)
    results = []
    for site in (0, 1):
        change = torch.zeros(case.batch, heads[site], case.size, dtype=torch.float64)
        for h in range(heads[site]):
            for n in range(case.size):
                without = layer(*projections, (site, h, n))
                for b in range(case.batch):
                    change[b, h, n] = (without[b] - whole[b]).square().sum()
        results.append(change.flatten(1))
    return results


def to_dtype(problem: QKProblem, dtype: torch.dtype) -> QKProblem:
    """Converts all floating-point tensors of a problem to a dtype."""
    return QKProblem(*(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in problem))


def importance(problem: QKProblem, **options: object) -> tuple[Tensor, ...]:
    """Returns what the public function qk_importance returns for a problem."""
    return qk_importance(**problem._asdict(), **options)


def share_kernels(case: Case, backend: str) -> Case:
    """Returns the case, or for compiled Triton kernels one whose heads have 16 dimensions instead of 2 to 15.

    Kernels compute 16 dimensions in both cases. With fewer dimensions every width, and often every length, needs a
    kernel of its own, which takes ten seconds to compile.
    """
    is_compiled = backend == "triton" and not is_interpreted(backend)
    return replace(case, size=16) if is_compiled and 1 < case.size < 16 else case


def limit_kernels(case: Case, backend: str) -> Case:
    """Returns the case, or for compiled Triton kernels one of the same width for all cases, without norm and soft cap.

    There each width, norm, soft cap, sink, bias and direction needs another kernel. They have their own tests.
    """
    if backend != "triton" or is_interpreted(backend):
        return case
    return replace(case, size=16, norm=False, softcap=None, sinks=None, causal=True, bias=None)


# Cases whose attention scores or changes are far from 1, or whose shapes are unusual.
EXTREME = {
    "more keys than a partial sum, rows than a tile": Case(batch=1, kv_heads=1, length=300, size=24, window=200),
    "odd size": Case(size=63, rotation=None, length=40),
    "size 1": Case(size=1, rotation=None, length=40),
    "key bias 300": Case(key_bias=300, rotation=None, length=70),
    "key bias 300, zeroed after no rotation": Case(key_bias=300, rotation=None, before=False, length=70),
    "key bias 300 under the rotation": Case(key_bias=300, length=70),
    "key bias 300, soft cap": Case(key_bias=300, softcap=50.0, length=40),
    "scores of 100": Case(query_factor=40, length=70),
    "scores of 100, norm": Case(query_factor=40, key_bias=3, norm=True, length=70),
    "scores far over the cap": Case(query_factor=100, softcap=2.0, length=40),
    "scores of 1e4": Case(query_factor=4e3, length=40),
    "tiny changes": Case(query_factor=1e-4, length=70),
    "weak and strong sinks": Case(sinks=(-60.0, 40.0), length=70),
    "sinks, key bias 300": Case(sinks=(-100.0, 100.0), key_bias=300, rotation=None, length=70),
    "sinks, scores of 100": Case(sinks=(0.0, 120.0), query_factor=40, length=70),
    "sinks, scores far over the cap": Case(sinks=(-2.0, 3.0), query_factor=100, softcap=2.0, length=40),
    "a sink and a single key": Case(sinks=(-3.0, 3.0), window=1, length=40),
    "both sides, more keys than a partial sum": Case(batch=1, kv_heads=1, length=300, size=24, causal=False),
    "both sides, a window over tiles": Case(batch=1, kv_heads=1, length=300, window=40, padding="some", causal=False),
    "both sides, biases, scores of 100": Case(query_factor=40, length=70, causal=False, bias="own", rotation=None),
    "biases, key bias 300": Case(key_bias=300, length=70, bias="shared"),
    "both sides, key bias 300": Case(key_bias=300, rotation=None, length=70, causal=False),
    "both sides, scores of 100": Case(query_factor=40, length=70, causal=False),
}
