"""What the arguments of every operator must be, whatever backend runs it.

The registry names the functions of an operator. Each takes the arguments of the operator's reference and raises
ValueError (an index out of range: IndexError) with a sentence on the first argument that does not fit. The functions
`check_*` read shapes, dtypes and numbers. The functions `check_values_*` read values of tensors, and only on the CPU:
on a GPU they would have to wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.ops.arguments import ACTIVATIONS, METRICS
from pymultiling.ops.requirements import (
    require,
    require_documents,
    require_floating,
    require_gram,
    require_head_tensor,
    require_heads,
    require_like,
    require_mask_sets,
    require_matrix,
    require_score_bias,
    require_scores,
    require_sinks,
    require_tables,
    require_valid,
)


def check_columns(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> None:
    """Checks the arguments of active_count and column_energy."""
    require_matrix("x", x)
    require_documents(x, documents, count, offsets, order)


def check_gated_ffn(
    gate: Tensor,
    up: Tensor | None,
    activation: str,
    documents: Tensor,
    count: int,
    masks: Tensor | None,
    mask_ids: Tensor | None,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> None:
    """Checks the arguments of gated_ffn."""
    require_matrix("gate", gate)
    if up is not None:
        require_like("up", up, "gate", gate)
    require(activation in ACTIVATIONS, lambda: f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if masks is not None and mask_ids is not None:
        require_mask_sets(gate, masks, mask_ids)
    else:
        require(masks is None and mask_ids is None, "masks and mask_ids must be given together")
    require_documents(gate, documents, count, offsets, order)


def check_mask_neurons(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> None:
    """Checks the arguments of mask_neurons."""
    require_matrix("x", x)
    require_mask_sets(x, masks, mask_ids)
    if values is not None:
        require(
            values.shape == x.shape[1:] and values.dtype == x.dtype,
            lambda: f"values must be ({x.shape[1]},) in {x.dtype}, got {tuple(values.shape)} in {values.dtype}",
        )


def check_mask_neurons_(
    x: Tensor, masks: Tensor, mask_ids: Tensor, scale: float = 0.0, values: Tensor | None = None
) -> None:
    """Checks the arguments of mask_neurons_."""
    check_mask_neurons(x, masks, mask_ids, scale, values)
    require(
        x.numel() == 0 or all(stride > 0 or size == 1 for size, stride in zip(x.shape, x.stride())),
        lambda: f"x must not be expanded, because it is overwritten: its strides are {x.stride()}; clone it",
    )


def check_nearest_neighbors(points: Tensor, k: int, metric: str) -> None:
    """Checks the arguments of nearest_neighbors."""
    require(
        points.ndim == 2 and points.shape[1] > 0, lambda: f"points must be (P, D), D > 0, got {tuple(points.shape)}"
    )
    require_floating("points", points)
    count = points.shape[0]
    require(1 <= k < count, lambda: f"k must be 1 to {count - 1} for {count} points, got {k}")
    require(metric in METRICS, lambda: f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def check_normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor,
    count: int,
    columns: bool = False,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> None:
    """Checks the arguments of normed_energy."""
    require_matrix("x", x)
    require_matrix("output", output)
    require_matrix("weight", weight)
    require(
        weight.shape == (output.shape[1], x.shape[1]) and output.shape[0] == x.shape[0],
        lambda: (
            f"x, output and weight must be (tokens, N), (tokens, D) and (D, N), got {tuple(x.shape)}, "
            f"{tuple(output.shape)} and {tuple(weight.shape)}"
        ),
    )
    _require_multiplier(multiplier, weight)
    _require_one_width(x, output, weight, multiplier, gram, scaled_gram)
    require_gram("gram", gram, x)
    require_like("scaled_gram", scaled_gram, "gram", gram)
    require_documents(x, documents, count, offsets, order)


def check_normed_value_energy(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    growth: Tensor,
    weight: Tensor,
    valid: Tensor,
    counted: Tensor | None,
    factors: Tensor | None,
    output: Tensor | None,
    multiplier: Tensor | None,
    eps: float,
    scale: float,
    window: int | None,
    softcap: float | None,
    causal: bool,
) -> None:
    """Checks the arguments of normed_value_energy."""
    require_heads("q", q, "k", k)
    (batch, heads, length, _), kv_heads = q.shape, k.shape[1]
    require(
        v.ndim == 4 and v.shape[:3] == k.shape[:3],
        lambda: f"v must be ({batch}, {kv_heads}, {length}, d), got {tuple(v.shape)}",
    )
    require_floating("v", v)
    require_head_tensor("growth", growth, v)
    require_matrix("weight", weight)
    width, size = weight.shape[0], v.shape[3]
    require(
        weight.shape[1] == heads * size,
        lambda: f"weight must have H d = {heads * size} columns, got {weight.shape[1]}",
    )
    require_valid(valid, q)
    require(
        counted is None or (counted.shape == valid.shape and counted.dtype == torch.bool),
        lambda: f"counted must be bool {tuple(valid.shape)} or None, got {_described(counted)}",
    )
    require(
        factors is None or (factors.shape == (batch, heads * size) and factors.is_floating_point()),
        lambda: f"factors must be floating point {(batch, heads * size)} or None, got {_described(factors)}",
    )
    if output is not None and multiplier is not None:
        require(
            output.shape == (batch, length, width) and output.is_floating_point(),
            lambda: f"output must be floating point {(batch, length, width)}, got {_described(output)}",
        )
        _require_multiplier(multiplier, weight)
    else:
        require(output is None and multiplier is None, "output and multiplier must be given together")
    _require_one_width(q, v, growth, weight, factors, output, multiplier)
    require_scores(scale, window, softcap)


def check_value_energy(
    attention: Tensor,
    gram: Tensor,
    documents: Tensor,
    count: int,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> None:
    """Checks the arguments of value_energy."""
    require_matrix("attention", attention)
    require_gram("gram", gram, attention)
    require_documents(attention, documents, count, offsets, order)


def check_value_gram(weight: Tensor, kv_heads: int, size: int) -> None:
    """Checks the arguments of value_gram."""
    require_matrix("weight", weight)
    require(
        kv_heads > 0 and size > 0 and weight.shape[1] % (kv_heads * size) == 0,
        lambda: f"weight must have K G d columns, a multiple of {kv_heads} x {size}, got {weight.shape[1]}",
    )


def check_qk(problem: QKProblem) -> None:
    """Checks the arguments of qk_importance and qk_estimate."""
    q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, scale, window, softcap = problem[:12]
    require_heads("q", q, "k", k)
    require((q_plain is None) == (k_plain is None), "q_plain and k_plain must be given together")
    require(
        q_plain is not None or (q_growth is None and k_growth is None), "a growth needs q_plain and k_plain: give both"
    )
    require_head_tensor("q_plain", q_plain, q)
    require_head_tensor("q_growth", q_growth, q)
    require_head_tensor("k_plain", k_plain, k)
    require_head_tensor("k_growth", k_growth, k)
    require_tables(cos, sin, q)
    require_valid(valid, q)
    require_scores(scale, window, softcap)
    require_sinks(problem.sinks, q)
    require_score_bias(problem.bias, q, softcap)


def check_centred_importance(
    query: Tensor,
    key: Tensor,
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    q_eps: float,
    k_eps: float,
    cos: Tensor | None,
    sin: Tensor | None,
    valid: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    interleaved: bool,
) -> None:
    """Checks the arguments of centred_importance."""
    require_heads("query", query, "key", key)
    _require_projection("q", q, q_weight, query)
    _require_projection("k", k, k_weight, key)
    require_tables(cos, sin, query)
    require_valid(valid, query)
    require_scores(scale, window, softcap)


def check_whole_norm_importance(
    q: Tensor,
    k: Tensor,
    q_rescale: Tensor,
    k_rescale: Tensor,
    valid: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    q_own: Tensor | None = None,
    k_own: Tensor | None = None,
) -> None:
    """Checks the arguments of whole_norm_importance."""
    require_heads("q", q, "k", k)
    _require_tokens("q_rescale", q_rescale, q)
    _require_tokens("k_rescale", k_rescale, k)
    _require_neurons("q_own", q_own, q)
    _require_neurons("k_own", k_own, k)
    require_valid(valid, q)
    require_scores(scale, window, softcap)


def check_values_columns(x: Tensor, documents: Tensor, count: int, *grouped: Tensor | None) -> None:
    """Checks the document indices of active_count and column_energy."""
    _require_indices("document", documents, count)


def check_values_gated_ffn(
    gate: Tensor,
    up: Tensor | None,
    activation: str,
    documents: Tensor,
    count: int,
    masks: Tensor | None,
    mask_ids: Tensor | None,
    *grouped: Tensor | None,
) -> None:
    """Checks the document indices and the mask sets of gated_ffn."""
    _require_indices("document", documents, count)
    if masks is not None and mask_ids is not None:
        _require_indices("mask set", mask_ids, masks.shape[0])


def check_values_mask_neurons(x: Tensor, masks: Tensor, mask_ids: Tensor, *further: Tensor | float | None) -> None:
    """Checks the mask sets of mask_neurons."""
    _require_indices("mask set", mask_ids, masks.shape[0])


def check_values_nearest_neighbors(points: Tensor, k: int, metric: str) -> None:
    """Checks that points are finite."""
    if points.is_cpu:
        low, high = points.detach().aminmax()  # NaN if any point has one
        require(bool(low.isfinite() & high.isfinite()), "points must be finite, some are infinite or NaN")


def check_values_normed_energy(*arguments: Any) -> None:
    """Checks the document indices of normed_energy."""
    documents, count = arguments[7:9]
    _require_indices("document", documents, count)


def check_values_value_energy(
    attention: Tensor, gram: Tensor, documents: Tensor, count: int, *grouped: Tensor | None
) -> None:
    """Checks the document indices of value_energy."""
    _require_indices("document", documents, count)


def _require_indices(kind: str, indices: Tensor, count: int) -> None:
    """Raises IndexError unless all indices (tokens,) are in [-1, count). `kind` says of what they are indices."""
    if not indices.is_cpu or not indices.numel():
        return
    low, high = indices.aminmax()
    if low.item() < -1 or high.item() >= count:  # numbers are compared faster than tensors
        token = int(((indices < -1) | (indices >= count)).nonzero()[0])
        raise IndexError(f"token {token} has {kind} {int(indices[token])}, there are {count}")


def _described(x: Tensor | None) -> str:
    """Returns the dtype and the shape of a tensor, for messages."""
    return "None" if x is None else f"{x.dtype} {tuple(x.shape)}"


def _require_multiplier(multiplier: Tensor, weight: Tensor) -> None:
    """Raises ValueError unless multiplier is floating point (D,), for weight (D, N)."""
    require(
        multiplier.shape == weight.shape[:1] and multiplier.is_floating_point(),
        lambda: f"multiplier must be floating point ({len(weight)},), got {_described(multiplier)}",
    )


def _require_one_width(*tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors that are given are float64, or none of them."""
    dtypes = [x.dtype for x in tensors if x is not None]
    require(
        len({dtype == torch.float64 for dtype in dtypes}) == 1,
        lambda: f"all tensors must be float64, or none of them, got {', '.join(map(str, dtypes))}",
    )


def _require_projection(name: str, x: Tensor, weight: Tensor, heads: Tensor) -> None:
    """Raises ValueError unless x is (B, l, heads d) and weight (d,) or (heads, d), for heads (B, heads, l, d)."""
    _require_tokens(name, x, heads)
    count, size = heads.shape[1], heads.shape[3]
    require(
        weight.shape in ((size,), (count, size)) and weight.is_floating_point(),
        lambda: (
            f"{name}_weight must be floating point ({size},) or ({count}, {size}), "
            f"got {weight.dtype} {tuple(weight.shape)}"
        ),
    )


def _require_tokens(name: str, x: Tensor, heads: Tensor) -> None:
    """Raises ValueError unless x is floating point (B, l, heads d), for heads (B, heads, l, d)."""
    batch, count, length, size = heads.shape
    shape: Sequence[int] = (batch, length, count * size)
    require(
        x.shape == shape and x.is_floating_point(),
        lambda: f"{name} must be floating point {shape}, got {x.dtype} {tuple(x.shape)}",
    )


def _require_neurons(name: str, x: Tensor | None, heads: Tensor) -> None:
    """Raises ValueError unless x is None or floating point (B, heads d), for heads (B, heads, l, d)."""
    shape = (heads.shape[0], heads.shape[1] * heads.shape[3])
    require(
        x is None or (x.shape == shape and x.is_floating_point()),
        lambda: f"{name} must be floating point {shape}, got {x.dtype} {tuple(x.shape)}" if x is not None else "",
    )
