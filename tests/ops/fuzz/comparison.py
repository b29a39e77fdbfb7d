"""Compares a kernel with plain PyTorch on one call, within the operator's error budget."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import KernelBackend
from pymultiling.ops.dispatch import _run, why_unsupported
from pymultiling.ops.registry import OPERATORS
from tests.ops.fuzz.cases import Case, Centred, Ffn, Gram, Mask, Nearest, Normed, Qk, Value, WholeNorm
from tests.support.distances import all_distances, rounding
from tests.support.error_budget import assert_within_budget, floor_of
from tests.support.normed_changes import by_definition
from tests.support.operator_inputs import is_interpreted, per_document

# A term of a change of the attention scores passes at most eight roundings: 1 + growth, products with it, the scale,
# log2(e), a cosine and the other head, and sums.
ROUNDING = 8 * 2.0**-24
PERTURBATIONS = 8


def supports(case: Case, backend: KernelBackend) -> bool:
    """Returns whether a backend has a kernel for a call, in whose range its numbers are.

    Every backend refuses points that are not finite. Under norms Triton's kernels give NaN where attention scores are
    beyond the range of float16 inputs. Where the rounding of an attention score is about as large as the soft cap,
    float32 has no digits of what the cap makes of a change.
    """
    if isinstance(case, Qk) and case.softcap is not None:
        (problem,) = case.arguments()
        if problem.largest_score() * 2.0**-24 > case.softcap / 16:
            return False
    if isinstance(case, Nearest):
        numbers, points = case.numbers, case.arguments()[0]
        squares_fit = (
            numbers.kind != "wide" and abs(numbers.factor) <= 12
        )  # in float32, in which Triton's kernel squares
        if not points.isfinite().all() or (backend == "triton" and not squares_fit):
            return False
    if isinstance(case, Qk) and backend == "triton" and case.growth and case.numbers.dtype == "float16":
        (problem,) = case.arguments()
        if not problem.largest_score() <= torch.finfo(torch.float16).max:
            return False
    return why_unsupported(OPERATORS[case.operator], backend, case.arguments()) is None


def compare(case: Case, backend: KernelBackend) -> None:
    """Fails if a backend's results differ from those of plain PyTorch by more than the budget.

    Both are compared with the exact result, in float64. An infinity or NaN of the exact result must be the same in the
    kernel's, unless plain PyTorch has another number that is not finite. Where plain PyTorch overflows, or the exact
    result is too large for the result's dtype, the kernel may overflow too. Where a gram multiplies infinities,
    only which numbers are finite is compared: the order of sums and products decides which of the others are NaN.
    """
    operator = OPERATORS[case.operator]
    assert operator.budget is not None
    actual, plain = _results(case, case.arguments(), backend), _results(case, case.arguments(), "torch")
    exact = _results(case, _widened(case.arguments()), "torch")
    for name, a, p, e in zip(operator.results, actual, plain, exact):
        assert a.dtype == p.dtype and a.shape == p.shape, name
        if (
            is_interpreted(backend)
            and _rounds_to_bfloat16(case, name, a)
            and not (isinstance(case, Mask) and case.scale == 0)
        ):
            continue  # the interpreter cuts digits off, and makes NaN of infinities, where a GPU rounds to bfloat16
        if name in operator.budget.equal_to_reference:
            wrong = ~_same(a, p)
            if isinstance(case, Nearest):
                wrong &= ~_equally_far(case, a, p)
            assert not wrong.any(), f"{name}: {int(wrong.sum())} differ: {a[wrong][:3]}, plain {p[wrong][:3]}"
            continue
        overflows = e.isfinite() & ~(e.to(p.dtype).isfinite() & p.isfinite())
        wrong = ~e.isfinite() & a.isfinite() & ~p.isfinite()
        if not _multiplies_infinities(case, backend):
            wrong |= ~e.isfinite() & ~_same(a, e) & _same(p, e)
        assert not wrong.any(), f"{name}: {a[wrong][:3]}, plain {p[wrong][:3]}, exact {e[wrong][:3]}"
        compared = e.isfinite() & ~(overflows & ~a.isfinite())
        a, p, e = (torch.where(compared, x, 0) for x in (a, p, e))
        p = torch.where(overflows, e.to(p.dtype), p)
        size = _size_of_terms(case, name, e)
        if size is not None:
            size = torch.where(compared, size, 1).clamp(min=torch.finfo(a.dtype).tiny)
            error, plain_error = (((x - e).abs() / size).amax() if e.numel() else 0 for x in (a, p))
            allowed = 2 * plain_error + floor_of(operator.budget, case.arguments())
            assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
            continue
        try:
            assert_within_budget(case.operator, a, p, e, case.arguments(), name)
        except AssertionError:
            if isinstance(case, WholeNorm):
                spread = _rounding_of_changes(case)
            elif isinstance(case, Qk | Centred):
                spread = torch.where(compared, _rounding_of_inputs(case)[operator.results.index(name)], 0)
                if isinstance(case, Qk):
                    spread += _rounding_of_probabilities(case)
                else:
                    spread *= 3  # a change is the sum of three terms: those of the deviation, mean and own dimension
            else:
                raise
            a = e + (a - e).sign() * ((a - e).abs() - spread).clamp(min=0)
            assert_within_budget(case.operator, a.to(p.dtype), p, e, case.arguments(), name)


def _rounding_of_probabilities(case: Qk) -> float:
    """Returns how much the rounding of A adds to a result, where it is larger than the change of A."""
    (problem,) = case.arguments()
    largest_score = problem._replace(sinks=None).largest_score()
    capped_score = largest_score if case.softcap is None else min(largest_score, case.softcap)
    change = 2.0**-24  # of an A near 1, by rounding
    if case.numbers.kind == "equal":  # A of equal keys do not change, but the rounding of their scores does
        change = ROUNDING * max(1.0, problem.largest_score())
    elif ROUNDING * capped_score > 0.01:  # float32 has at most two digits of A
        change = ROUNDING * capped_score
    elif case.softcap is not None and case.sinks is not None:
        # Changes that a cap has made equal change A only beside a sink, perhaps less than their rounding does.
        change = ROUNDING * max(1.0, largest_score)
    return case.batch * case.length * change**2


def _rounding_of_changes(case: WholeNorm) -> float:
    """Returns how much the rounding of t S and of its mean adds to a result, where all changes t S are about equal."""
    q, k, q_rescale, k_rescale, *_ = _widened(case.arguments())
    score = abs(case.scale) * float(q.nan_to_num().norm(dim=-1).max() * k.nan_to_num().norm(dim=-1).max())
    score = score if case.softcap is None else min(score, case.softcap)
    change = 2.0**-24 * max(1.0, score) * max(float(q_rescale.max()), float(k_rescale.max()))
    return case.kv_heads * case.group * case.length * change**2


def _size_of_terms(case: Case, result: str, exact: Tensor) -> Tensor | None:
    """Returns what the errors of a sum whose terms cancel are relative to. None: to the exact results.

    For a gram this is the product of two columns' lengths, for normed_energy the size of its terms.
    """
    if isinstance(case, Gram):
        lengths = exact.diagonal(dim1=2, dim2=3).sqrt()
        return lengths[..., None] * lengths[..., None, :]
    if isinstance(case, Normed):
        *arguments, documents, count, _ = case.arguments()[:10]
        terms = by_definition(*arguments, single=result == "columns")[1]
        return per_document(terms, documents, count) + exact if len(exact) else exact
    return None


def _rounds_to_bfloat16(case: Case, name: str, result: Tensor) -> bool:
    """Returns whether a result is rounded to bfloat16, or counts such numbers, which the interpreter lets underflow."""
    if isinstance(case, Mask) and case.scale == 0:
        return False
    counts_small = name == "active" and case.numbers.dtype == "bfloat16" and case.numbers.kind in ("wide", "special")
    return result.dtype == torch.bfloat16 or counts_small


def _multiplies_infinities(case: Case, backend: KernelBackend) -> bool:
    """Returns whether a gram is infinite or multiplied with infinite numbers, or an FFN may overflow.

    Far below 0, both kinds of gelu are 0 in plain PyTorch, also in float64, and small numbers in C++. Times an infinity
    that is NaN or infinite. Of the infinities of an FFN in bfloat16 the interpreter makes NaN, also in the sums over
    its product.
    """
    if isinstance(case, Ffn):
        if case.numbers.dtype == "float16" and case.numbers.kind == "wide":
            return True
        interpreted = case.numbers.dtype == "bfloat16" and is_interpreted(backend)
        return case.numbers.kind in ("infinite", "special") and (case.activation.startswith("gelu") or interpreted)
    if isinstance(case, Value):
        return "infinite" in (case.gram_kind, case.numbers.kind)
    return isinstance(case, Normed) and case.weight_kind == "infinite"


def _rounding_of_inputs(case: Qk | Centred) -> tuple[Tensor, ...]:
    """Returns by how much rounding of the inputs changes each number of the exact results.

    Where differences of almost equal changes are all that is left, as between keys that are equal, float32 has no
    digits of them, whatever computes them. This is the largest change of some inputs in which each number is rounded.
    """
    arguments = _widened(case.arguments())
    exact = _results(case, arguments, "torch")
    generator = torch.Generator().manual_seed(0)
    largest = [torch.zeros_like(x) for x in exact]
    for _ in range(PERTURBATIONS):
        for change, x, e in zip(largest, _results(case, _rounded(arguments, generator), "torch"), exact):
            torch.maximum(change, (x - e).abs().nan_to_num(), out=change)
    return tuple(largest)


def _rounded(arguments: tuple[object, ...], generator: torch.Generator) -> tuple[object, ...]:
    """Returns the arguments with each floating-point number of their tensors rounded, up or down."""
    if len(arguments) == 1 and isinstance(arguments[0], QKProblem):
        return (QKProblem(*_rounded(tuple(arguments[0]), generator)),)
    return tuple(
        x * (1 + ROUNDING * (2 * torch.rand(x.shape, dtype=x.dtype, generator=generator) - 1))
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in arguments
    )


def _equally_far(case: Nearest, a: Tensor, b: Tensor) -> Tensor:
    """Returns where two neighbours (P, k) are equally far up to rounding, which may put either of them first."""
    points, _, metric = case.arguments()
    distances = all_distances(points, metric) ** (1 if metric == "cosine" else 2)
    return (distances.gather(1, a) - distances.gather(1, b)).abs() <= rounding(points, metric)


def _same(x: Tensor, y: Tensor) -> Tensor:
    """Returns where numbers are equal or both NaN."""
    return (x == y) | (x.isnan() & y.isnan())


def _results(case: Case, arguments: tuple[object, ...], backend: str) -> tuple[Tensor, ...]:
    """Returns the results of a call, or the overwritten tensor."""
    results = _run(OPERATORS[case.operator], arguments, backend)
    if results is None:
        return (arguments[0],)
    return results if isinstance(results, tuple) else (results,)


def _widened(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """Returns the arguments with tensors of floating-point numbers in float64."""
    if len(arguments) == 1 and isinstance(arguments[0], QKProblem):
        return (QKProblem(*_widened(tuple(arguments[0]))),)
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)
