"""The registry of the operators: the only place that lists them, with an entry for each.

An entry names the operator's modules: `reference/<name>.py` (plain PyTorch), `triton_kernels/<name>.py` (if "triton" is
among its kernels) and `<name>.py` in this folder (the public function). Dispatch, the tests and the benchmarks read the
entries. Importing this module does not import triton.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

import pymultiling.ops.checks as checks
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import Backend, KernelBackend, Metric
from pymultiling.ops.operator import Argument, Budget, Kernels, Operator, unsupported_dtype

NO_KERNEL = "it has no such kernel"  # the reason why a backend without a kernel cannot run an operator
TRITON = Kernels("cuda", "its kernels run on NVIDIA's and AMD's GPUs", (torch.float32, torch.bfloat16, torch.float16))
CUDA = Kernels("cuda", "its kernel runs on NVIDIA's GPUs", (torch.bfloat16,))
CPP = Kernels("cpu", "its kernels run on the CPU", (torch.float32, torch.bfloat16))
# All backends but plain PyTorch, with what their kernels support for most operators.
KERNELS: dict[KernelBackend, Kernels] = {"triton": TRITON, "cuda": CUDA, "cpp": CPP}
BACKENDS: tuple[Backend, ...] = ("auto", *KERNELS, "torch")

MAX_TRITON_NEIGHBORS = 16  # Triton's kernel keeps them in registers
LARGEST_OUTLIER = 100.0  # largest ratio of a dimension's variance to the others' for centred_importance in C++
HIDDEN_FLOORS = {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 3e-4}  # hidden is rounded to its dtype
DOCUMENTS_SCHEMA = "Tensor documents, SymInt count"
GROUPED_SCHEMA = "Tensor? offsets=None, Tensor? order=None"  # of `Documents`
QK_SCHEMA = (
    "(Tensor q, Tensor k, Tensor? q_plain, Tensor? k_plain, Tensor? cos, Tensor? sin, Tensor valid, "
    "Tensor? q_growth, Tensor? k_growth, float scale, SymInt? window, float? softcap, bool interleaved, "
    "Tensor? sinks=None, bool causal=True, Tensor? bias=None)"
)


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype of sums: float64 for float64 input, and float32 for every other dtype."""
    return torch.promote_types(x.dtype, torch.float32)


def _empty_head_sums(x: Tensor) -> Tensor:
    """Returns an empty tensor (B, heads d) for x (B, heads, l, d), in the dtype of sums."""
    return x.new_empty(x.shape[0], x.shape[1] * x.shape[3], dtype=_sum_dtype(x))


# Functions for the field `fake`. Each takes the arguments of the schema and returns empty tensors with the shapes and
# dtypes of the results.


def _fake_active_count(x: Tensor, documents: Tensor, count: int, *grouped: Argument) -> Tensor:
    return x.new_empty(count, x.shape[1], dtype=torch.int64)


def _fake_column_energy(x: Tensor, documents: Tensor, count: int, *grouped: Argument) -> Tensor:
    return x.new_empty(count, x.shape[1], dtype=_sum_dtype(x))


def _fake_gated_ffn(
    gate: Tensor,
    up: Tensor | None,
    activation: str,
    documents: Tensor,
    count: int,
    *arguments: Argument,
) -> tuple[Tensor, ...]:
    sums = gate.new_empty(count, gate.shape[1], dtype=_sum_dtype(gate))
    return gate.new_empty(gate.shape), sums, torch.empty_like(sums, dtype=torch.int64), torch.empty_like(sums)


def _fake_mask_neurons(x: Tensor, *arguments: Argument) -> Tensor:
    return x.new_empty(x.shape)


def _fake_in_place(*arguments: Argument) -> None:
    return None


def _fake_nearest_neighbors(points: Tensor, k: int, metric: Metric) -> tuple[Tensor, ...]:
    indices = points.new_empty(points.shape[0], k, dtype=torch.int64)
    return indices, torch.empty_like(indices, dtype=_sum_dtype(points))


def _fake_normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor,
    count: int,
    columns: bool,
    *grouped: Argument,
) -> tuple[Tensor, ...]:
    energy = weight.new_empty(count, weight.shape[1] // gram.shape[2], dtype=_sum_dtype(weight))
    return energy, weight.new_empty(count if columns else 0, weight.shape[1], dtype=_sum_dtype(weight))


def _fake_normed_value_energy(q: Tensor, k: Tensor, v: Tensor, *arguments: Argument) -> Tensor:
    return _empty_head_sums(v)


def _fake_qk(q: Tensor, k: Tensor, *arguments: Argument) -> tuple[Tensor, ...]:
    return _empty_head_sums(q), _empty_head_sums(k)


def _fake_qk_estimate(q: Tensor, k: Tensor, *arguments: Argument) -> tuple[Tensor, ...]:
    return _empty_head_sums(q), _empty_head_sums(k), _empty_head_sums(q), _empty_head_sums(k)


def _fake_value_energy(attention: Tensor, gram: Tensor, documents: Tensor, count: int, *grouped: Argument) -> Tensor:
    return attention.new_empty(count, gram.shape[0] * gram.shape[1], dtype=_sum_dtype(attention))


def _fake_value_gram(weight: Tensor, kv_heads: int, size: int) -> Tensor:
    group = weight.shape[1] // (kv_heads * size)
    return weight.new_empty(kv_heads, size, group, group, dtype=_sum_dtype(weight))


def _too_many_neighbors(points: Tensor, k: int, metric: Metric) -> str | None:
    """Returns why the Triton kernel does not support k, or None if it does."""
    return f"its kernel takes k up to {MAX_TRITON_NEIGHBORS}, not {k}" if k > MAX_TRITON_NEIGHBORS else None


def _unsupported_by_cuda(problem: QKProblem) -> str | None:
    """Returns why the CUDA kernel does not support the arguments, or None if it does."""
    size, rotated = problem.q.shape[3], 0 if problem.cos is None else problem.cos.shape[2]
    if not problem.causal:
        return "its kernel does not support attention to later tokens"
    if problem.bias is not None:
        return "its kernel does not support biases of the attention scores"
    if problem.sinks is not None:
        return "its kernel does not support attention sinks"
    if problem.q_growth is not None or problem.k_growth is not None:
        return "its kernel does not support a norm over the head"
    if problem.softcap is not None:
        return "its kernel does not support a soft cap"
    if size % 32 or size > 256:
        return f"its kernel takes heads whose size is a multiple of 32, 256 at most, not {size}"
    if rotated % 4:
        return f"its kernel takes a multiple of 4 rotated dimensions, not {rotated}"
    # `Kernels.dtypes` is compared with q's dtype, which k has too. q_plain and k_plain may have another dtype.
    for unrotated in (problem.q_plain, problem.k_plain):
        if unrotated is not None and (reason := unsupported_dtype(unrotated.dtype, CUDA.dtypes)) is not None:
            return reason
    return None


def _normed_floor_factor(x: Tensor, output: Tensor, weight: Tensor, *_: Argument) -> float:
    """C++ rounds g^2 f to bfloat16, by at most 2^-9 of it, where it multiplies bfloat16."""
    return 1000.0 if output.dtype == weight.dtype == torch.bfloat16 else 1.0


def _qk_floor_factor(problem: QKProblem) -> float:
    """Returns by how much the rounding error of the attention scores S exceeds that of a number.

    An error of S is a relative error of the probabilities. A soft cap changes a change of S by a factor whose logarithm
    has a slope of at most 4 / softcap, where the slope of log A is at most 2.
    """
    return 1 + problem.largest_score() * (1 + 2 / (problem.softcap or torch.inf))


def _centred_floor_factor(query: Tensor, key: Tensor, *rest: Argument) -> float:
    """Returns the factor of qk_importance for the same heads."""
    return _heads_floor_factor(query, key, *rest[8:12])


def _outlier_unsupported(query: Tensor, key: Tensor, q: Tensor, k: Tensor, *rest: Argument) -> str | None:
    """Returns why the C++ kernel of centred_importance does not support the arguments, or None if it does.

    Where a dimension has nearly all of the variance of its head, the norm's output hardly changes without it. The
    kernel adds the changes of mean and deviation, which then cancel.
    """
    eps, is_token = (rest[2], rest[3]), cast(Tensor, rest[6])[..., None, None]
    for x, heads, e in zip((q, k), (query, key), eps):
        size = heads.shape[3]
        deviations = torch.unflatten(x.float(), -1, (heads.shape[1], size))
        squares = (deviations - deviations.mean(-1, keepdim=True)).square() / max(1, size - 1)
        own = squares.amax(-1, keepdim=True)
        others = squares.sum(-1, keepdim=True) * max(1, size - 1) / size - own + cast(float, e)
        if ((own > LARGEST_OUTLIER * others) & is_token).any():
            return "its kernel needs heads of which no dimension has nearly all of the variance"
    return None


def _whole_norm_floor_factor(q: Tensor, k: Tensor, q_rescale: Tensor, k_rescale: Tensor, *rest: Argument) -> float:
    """Returns the factor of qk_importance: without a neuron the attention scores change by a part of themselves."""
    return _heads_floor_factor(q, k, *rest[:4])


def _heads_floor_factor(
    query: Tensor, key: Tensor, valid: Argument, scale: Argument, window: Argument, softcap: Argument
) -> float:
    """Returns the factor of qk_importance for queries and keys as attention multiplies them."""
    attention = (query, key, None, None, None, None, valid, None, None, scale, window, softcap, False, None)
    return _qk_floor_factor(cast(Callable[..., QKProblem], QKProblem)(*attention))


_ENTRIES = (
    Operator(
        "active_count",
        f"(Tensor x, {DOCUMENTS_SCHEMA}, {GROUPED_SCHEMA}) -> Tensor",
        fake=_fake_active_count,
        results=("active",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(equal_to_reference=("active",)),
        check=checks.check_columns,
        check_values=checks.check_values_columns,
    ),
    Operator(
        "centred_importance",
        "(Tensor query, Tensor key, Tensor q, Tensor k, Tensor q_weight, Tensor k_weight, float q_eps, float k_eps, "
        "Tensor? cos, Tensor? sin, Tensor valid, float scale, SymInt? window, float? softcap, bool interleaved) "
        "-> (Tensor, Tensor)",
        fake=_fake_qk,
        results=("q", "k"),
        kernels={"cpp": replace(CPP, unsupported=_outlier_unsupported)},
        budget=Budget(4e-6, floor_factor=_centred_floor_factor),
        check=checks.check_centred_importance,
    ),
    Operator(
        "column_energy",
        f"(Tensor x, {DOCUMENTS_SCHEMA}, {GROUPED_SCHEMA}) -> Tensor",
        fake=_fake_column_energy,
        results=("energy",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(5e-7),
        check=checks.check_columns,
        check_values=checks.check_values_columns,
    ),
    Operator(
        "gated_ffn",
        f"(Tensor gate, Tensor? up, str activation, {DOCUMENTS_SCHEMA}, Tensor? masks, Tensor? mask_ids, "
        f"{GROUPED_SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)",
        fake=_fake_gated_ffn,
        results=("hidden", "squares", "active", "magnitude"),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(2e-6, result_floors={"hidden": HIDDEN_FLOORS}),
        result_type="GatedFFN",
        check=checks.check_gated_ffn,
        check_values=checks.check_values_gated_ffn,
    ),
    Operator(
        "mask_neurons",
        "(Tensor x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> Tensor",
        fake=_fake_mask_neurons,
        results=("x",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(equal_to_reference=("x",)),
        check=checks.check_mask_neurons,
        check_values=checks.check_values_mask_neurons,
    ),
    Operator(
        "mask_neurons_",
        "(Tensor(a!) x, Tensor masks, Tensor mask_ids, float scale=0., Tensor? values=None) -> ()",
        fake=_fake_in_place,
        results=("x",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(equal_to_reference=("x",)),
        shared_module="mask_neurons",
        public_function="mask_neurons",
        options={"inplace": True},
        mutates=("x",),
        check=checks.check_mask_neurons_,
        check_values=checks.check_values_mask_neurons,
    ),
    Operator(
        "nearest_neighbors",
        "(Tensor points, SymInt k, str metric) -> (Tensor, Tensor)",
        fake=_fake_nearest_neighbors,
        results=("indices", "distances"),
        kernels={"triton": replace(TRITON, unsupported=_too_many_neighbors), "cpp": CPP},
        budget=Budget(3e-7, equal_to_reference=("indices",)),  # distances are float64 sums
        check=checks.check_nearest_neighbors,
        check_values=checks.check_values_nearest_neighbors,
    ),
    Operator(
        "normed_energy",
        "(Tensor x, Tensor output, Tensor weight, Tensor multiplier, Tensor gram, Tensor scaled_gram, float eps, "
        f"{DOCUMENTS_SCHEMA}, bool columns, {GROUPED_SCHEMA}) -> (Tensor, Tensor)",
        fake=_fake_normed_energy,
        results=("energy", "columns"),
        kernels={"triton": TRITON, "cpp": CPP},
        # relative to the terms e^2 |g f|^2 and |g v|^2 / r'^2, because they cancel where v is parallel to f
        budget=Budget(2e-6, floor_factor=_normed_floor_factor),
        result_type="NormedEnergy",
        check=checks.check_normed_energy,
        check_values=checks.check_values_normed_energy,
    ),
    Operator(
        "normed_value_energy",
        "(Tensor q, Tensor k, Tensor v, Tensor growth, Tensor weight, Tensor valid, Tensor? counted, Tensor? factors, "
        "Tensor? output, Tensor? multiplier, float eps, float scale, SymInt? window, float? softcap, bool causal) "
        "-> Tensor",
        fake=_fake_normed_value_energy,
        results=("energy",),
        kernels={},
        budget=None,
        check=checks.check_normed_value_energy,
    ),
    Operator(
        "qk_estimate",
        f"{QK_SCHEMA} -> (Tensor, Tensor, Tensor, Tensor)",
        fake=_fake_qk_estimate,
        results=("q", "k", "q_error", "k_error"),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(4e-6, floor_factor=_qk_floor_factor, is_estimate=True),
        public_function="qk_importance",
        options={"mode": "fast"},
        result_type="QKEstimate",
        arguments_type=QKProblem,
        slow_to_compile=True,
        check=checks.check_qk,
    ),
    Operator(
        "qk_importance",
        f"{QK_SCHEMA} -> (Tensor, Tensor)",
        fake=_fake_qk,
        results=("q", "k"),
        kernels={
            "triton": TRITON,
            "cuda": replace(CUDA, unsupported=_unsupported_by_cuda),
            "cpp": CPP,
        },
        budget=Budget(4e-6, floor_factor=_qk_floor_factor),
        options={"mode": "exact"},
        arguments_type=QKProblem,
        slow_to_compile=True,
        check=checks.check_qk,
    ),
    Operator(
        "value_energy",
        f"(Tensor attention, Tensor gram, {DOCUMENTS_SCHEMA}, {GROUPED_SCHEMA}) -> Tensor",
        fake=_fake_value_energy,
        results=("energy",),
        kernels={"triton": TRITON, "cpp": CPP},
        budget=Budget(2e-6),  # the terms of the sum over pairs of heads have both signs
        check=checks.check_value_energy,
        check_values=checks.check_values_value_energy,
    ),
    Operator(
        "value_gram",
        "(Tensor weight, SymInt kv_heads, SymInt size) -> Tensor",
        fake=_fake_value_gram,
        results=("gram",),
        kernels={"cpp": CPP},
        # Relative to the product of the two columns' lengths, because the terms of a product of different columns may
        # cancel.
        budget=Budget(1e-6),
        shared_module="value_energy",
        check=checks.check_value_gram,
    ),
    Operator(
        "whole_norm_importance",
        "(Tensor q, Tensor k, Tensor q_rescale, Tensor k_rescale, Tensor valid, float scale, SymInt? window, "
        "float? softcap, Tensor? q_own=None, Tensor? k_own=None) -> (Tensor, Tensor)",
        fake=_fake_qk,
        results=("q", "k"),
        kernels={"cpp": CPP},
        budget=Budget(4e-6, floor_factor=_whole_norm_floor_factor),
        check=checks.check_whole_norm_importance,
    ),
)
OPERATORS: dict[str, Operator] = {entry.name: entry for entry in _ENTRIES}
