"""The operators, a row each: the one place that lists them.

A row names an operator's files by its name: `reference/<name>.py` (plain PyTorch), `triton_kernels/<name>.py` (where
"triton" is among its kernels), and the public function's `<name>.py` in this folder. Dispatch, the public names, the
tests, the benchmarks and `pymultiling doctor` read the rows. Importing this imports no triton.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import require_finite
from pymultiling.ops.operator import Budget, Kernels, Operator, not_among

NO_KERNEL = "it has no such kernel"
TRITON = Kernels("cuda", "its kernels run on NVIDIA's and AMD's GPUs", (torch.float32, torch.bfloat16, torch.float16))
CUDA = Kernels("cuda", "its kernel runs on NVIDIA's GPUs", (torch.bfloat16,))
CPP = Kernels("cpu", "its kernels run on the CPU", (torch.float32, torch.bfloat16))
# Of every backend but plain PyTorch, as most operators have them.
KERNELS = {"triton": TRITON, "cuda": CUDA, "cpp": CPP}
BACKENDS = ("auto", *KERNELS, "torch")

MOST_NEIGHBORS = 16  # that Triton's kernel takes, as it keeps them in registers
HALF_A_LAST_PLACE = {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4}
QK_SCHEMA = (
    "(Tensor q, Tensor k, Tensor? q_plain, Tensor? k_plain, Tensor? cos, Tensor? sin, Tensor valid, "
    "Tensor? q_gain, Tensor? k_gain, float scale, SymInt? window, float? softcap, bool interleaved)"
)


def _sums(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _of_heads(x: Tensor) -> Tensor:
    """(B, heads d) for x (B, heads, l, d)."""
    return x.new_empty(x.shape[0], x.shape[1] * x.shape[3], dtype=_sums(x))


def _fake_gated_ffn(gate, up, activation, documents, count, masks, mask_ids) -> tuple[Tensor, ...]:
    sums = gate.new_empty(count, gate.shape[1], dtype=_sums(gate))
    return gate.new_empty(gate.shape), sums, torch.empty_like(sums, dtype=torch.int64), torch.empty_like(sums)


def _fake_nearest_neighbors(points, k, metric) -> tuple[Tensor, Tensor]:
    indices = points.new_empty(points.shape[0], k, dtype=torch.int64)
    return indices, torch.empty_like(indices, dtype=_sums(points))


def _many_neighbors(points: Tensor, k: int, metric: str) -> str | None:
    return f"its kernel takes k up to {MOST_NEIGHBORS}, not {k}" if k > MOST_NEIGHBORS else None


def _not_for_cuda(problem: QKProblem) -> str | None:
    size, turned = problem.q.shape[3], 0 if problem.cos is None else problem.cos.shape[2]
    if problem.q_gain is not None or problem.k_gain is not None:
        return "its kernel knows no norm over the head"
    if problem.softcap is not None:
        return "its kernel knows no soft cap"
    if size % 32 or size > 256:
        return f"its kernel takes heads whose size is a multiple of 32, 256 at most, not {size}"
    if turned % 4:
        return f"its kernel takes a multiple of 4 rotated dimensions, not {turned}"
    plain = (x for x in (problem.q_plain, problem.k_plain) if x is not None)
    return next(filter(None, (not_among(x.dtype, CUDA.dtypes) for x in plain)), None)


def _one_and_largest_score(problem: QKProblem) -> float:
    """A probability inherits the rounding of the largest score."""
    return 1 + problem.largest_score()


_ROWS = (
    Operator(
        "active_count",
        "(Tensor x, Tensor documents, SymInt count) -> Tensor",
        fake=lambda x, documents, count: x.new_empty(count, x.shape[1], dtype=torch.int64),
        results=("active",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(exact=("active",)),
    ),
    Operator(
        "centred_importance",
        "(Tensor query, Tensor key, Tensor q, Tensor k, Tensor q_weight, Tensor k_weight, float q_eps, float k_eps, "
        "Tensor? cos, Tensor? sin, Tensor valid, float scale, SymInt? window, float? softcap, bool interleaved) "
        "-> (Tensor, Tensor)",
        fake=lambda query, key, *others: (_of_heads(query), _of_heads(key)),
        results=("q", "k"),
        kernels={},
        budget=None,
    ),
    Operator(
        "column_energy",
        "(Tensor x, Tensor documents, SymInt count) -> Tensor",
        fake=lambda x, documents, count: x.new_empty(count, x.shape[1], dtype=_sums(x)),
        results=("energy",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(5e-7),
    ),
    Operator(
        "gated_ffn",
        "(Tensor gate, Tensor? up, str activation, Tensor documents, SymInt count, Tensor? masks, Tensor? mask_ids) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        fake=_fake_gated_ffn,
        results=("hidden", "squares", "active", "magnitude"),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(2e-6, floors={"hidden": HALF_A_LAST_PLACE}),
        named="GatedFFN",
    ),
    Operator(
        "mask_neurons",
        "(Tensor x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> Tensor",
        fake=lambda x, *others: x.new_empty(x.shape),
        results=("x",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(exact=("x",)),
    ),
    Operator(
        "mask_neurons_",
        "(Tensor(a!) x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> ()",
        fake=lambda *arguments: None,
        results=("x",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(exact=("x",)),
        home="mask_neurons",
        public_function="mask_neurons",
        options={"inplace": True},
        mutates=("x",),
    ),
    Operator(
        "nearest_neighbors",
        "(Tensor points, SymInt k, str metric) -> (Tensor, Tensor)",
        fake=_fake_nearest_neighbors,
        results=("indices", "distances"),
        kernels={"triton": replace(TRITON, refusal=_many_neighbors), "cpp": CPP},
        budget=Budget(3e-7, exact=("indices",)),  # distances are float64 sums
        check=require_finite,
    ),
    Operator(
        "normed_energy",
        "(Tensor x, Tensor output, Tensor weight, Tensor multiplier, Tensor gram, Tensor scaled_gram, float eps, "
        "Tensor documents, SymInt count) -> Tensor",
        fake=lambda x, output, weight, multiplier, gram, scaled_gram, eps, documents, count: weight.new_empty(
            count, weight.shape[1] // gram.shape[2], dtype=_sums(weight)
        ),
        results=("energy",),
        kernels={},
        budget=None,
    ),
    Operator(
        "qk_estimate",
        f"{QK_SCHEMA} -> (Tensor, Tensor, Tensor, Tensor)",
        fake=lambda q, k, *others: (_of_heads(q), _of_heads(k), _of_heads(q), _of_heads(k)),
        results=("q", "k", "q_error", "k_error"),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(4e-6, times=_one_and_largest_score, is_estimate=True),
        public_function="qk_importance",
        options={"mode": "fast"},
        named="QKEstimate",
        arguments_type=QKProblem,
        heavy=True,
    ),
    Operator(
        "qk_importance",
        f"{QK_SCHEMA} -> (Tensor, Tensor)",
        fake=lambda q, k, *others: (_of_heads(q), _of_heads(k)),
        results=("q", "k"),
        kernels={"triton": TRITON, "cuda": replace(CUDA, refusal=_not_for_cuda), "cpp": CPP},
        budget=Budget(4e-6, times=_one_and_largest_score),
        options={"mode": "exact"},
        arguments_type=QKProblem,
        heavy=True,
    ),
    Operator(
        "value_energy",
        "(Tensor attention, Tensor gram, Tensor documents, SymInt count) -> Tensor",
        fake=lambda attention, gram, documents, count: attention.new_empty(
            count, gram.shape[0] * gram.shape[1], dtype=_sums(attention)
        ),
        results=("energy",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(2e-6),  # the terms of a sum over pairs of heads have both signs
    ),
    Operator(
        "value_gram",
        "(Tensor weight, SymInt kv_heads, SymInt size) -> Tensor",
        fake=lambda weight, kv_heads, size: weight.new_empty(
            kv_heads, size, *2 * (weight.shape[1] // (kv_heads * size),), dtype=_sums(weight)
        ),
        results=("gram",),
        kernels={"cpp": CPP},
        budget=Budget(
            1e-6
        ),  # relative to the product of the columns' lengths: products of different columns may cancel
        home="value_energy",
    ),
    Operator(
        "whole_norm_importance",
        "(Tensor q, Tensor k, Tensor q_rescale, Tensor k_rescale, Tensor valid, float scale, SymInt? window, "
        "float? softcap) -> (Tensor, Tensor)",
        fake=lambda q, k, *others: (_of_heads(q), _of_heads(k)),
        results=("q", "k"),
        kernels={},
        budget=None,
    ),
)
OPERATORS: dict[str, Operator] = {row.name: row for row in _ROWS}
