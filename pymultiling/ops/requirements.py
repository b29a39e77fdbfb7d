"""Requirements that the arguments of several operators must meet. `checks.py` has the arguments of each operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def require(condition: bool, message: str | Callable[[], str]) -> None:
    """Raises ValueError with the message, or with what the function returns, unless the condition holds.

    To format a message takes microseconds, so a message that depends on the arguments is a function.
    """
    if not condition:
        raise ValueError(message if isinstance(message, str) else message())


def require_one_device(names: Sequence[str], arguments: Sequence[object]) -> None:
    """Raises ValueError unless all tensors among the arguments are on the device of the first.

    torch does not check this for custom operators. Where one tensor is on "meta", it would return uninitialised memory.
    """
    first = None
    for x in arguments:
        if isinstance(x, Tensor):
            device = x.device
            if first is None:
                first = device
            elif device != first:
                tensors = {name: y.device for name, y in zip(names, arguments) if isinstance(y, Tensor)}
                text = ", ".join(f"{name} on {place}" for name, place in tensors.items())
                raise ValueError(f"all tensors must be on one device, got {text}")


def require_floating(name: str, x: Tensor) -> None:
    """Raises ValueError unless x is floating point. `name` is its name in the message."""
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}")


def require_matrix(name: str, x: Tensor) -> None:
    """Raises ValueError unless x is a floating-point matrix. `name` is its name in the message."""
    if x.ndim != 2:
        raise ValueError(f"{name} must be (tokens, neurons), got {tuple(x.shape)}")
    require_floating(name, x)


def require_like(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless x has the shape and the dtype of another tensor."""
    if x.shape != other.shape or x.dtype != other.dtype:
        raise ValueError(
            f"{name} must be {tuple(other.shape)} in {other.dtype} like {other_name}, got {tuple(x.shape)} in {x.dtype}"
        )


def require_documents(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> None:
    """Raises ValueError unless the documents fit x (tokens, N): `documents` (tokens,) int64, and `Documents`."""
    tokens = x.shape[:1]
    if documents.shape != tokens:
        raise ValueError(f"documents must be {tuple(tokens)}, got {tuple(documents.shape)}")
    if documents.dtype != torch.int64:
        raise ValueError(f"documents must be int64, got {documents.dtype}")
    if not count >= 0:
        raise ValueError(f"count must not be negative, got {count}")
    if offsets is None:
        if order is not None:
            raise ValueError("order needs offsets: give both, as group_tokens does")
        return
    if offsets.shape != (count + 1,) or offsets.dtype != torch.int32 or not offsets.is_contiguous():
        raise ValueError(
            f"offsets must be int32 ({count + 1},) and contiguous, got {offsets.dtype} {tuple(offsets.shape)}"
        )
    if order is not None and (order.shape != tokens or order.dtype != torch.int32 or not order.is_contiguous()):
        raise ValueError(f"order must be int32 {tuple(tokens)} and contiguous, got {order.dtype} {tuple(order.shape)}")


def require_mask_sets(x: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    """Raises ValueError unless masks is (sets, N) bool and mask_ids (tokens,) int64, for x (tokens, N)."""
    tokens, width = x.shape
    if masks.ndim != 2 or masks.shape[1] != width or masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool (sets, {width}), got {masks.dtype} {tuple(masks.shape)}")
    if mask_ids.shape != (tokens,) or mask_ids.dtype != torch.int64:
        raise ValueError(f"mask_ids must be int64 ({tokens},), got {mask_ids.dtype} {tuple(mask_ids.shape)}")


def require_gram(name: str, gram: Tensor, x: Tensor) -> None:
    """Raises ValueError unless gram is (K, d, G, G) with K d G = N for x (tokens, N), in the dtype of sums of x."""
    shape, width = gram.shape, x.shape[1]
    if len(shape) != 4 or shape[2] != shape[3] or shape[0] * shape[1] * shape[2] != width:
        raise ValueError(f"{name} must be (K, d, G, G) with K d G = {width}, got {tuple(shape)}")
    expected = torch.promote_types(x.dtype, torch.float32)
    if gram.dtype != expected:
        raise ValueError(f"{name} must be {expected} for {x.dtype} input, got {gram.dtype}")


def require_heads(q_name: str, q: Tensor, k_name: str, k: Tensor) -> None:
    """Raises ValueError unless q is (B, H, l, d) and k (B, K, l, d), in one floating dtype, with K dividing H."""
    q_shape, k_shape = q.shape, k.shape
    if len(q_shape) != 4 or len(k_shape) != 4 or q_shape[0] != k_shape[0] or q_shape[2:] != k_shape[2:]:
        raise ValueError(
            f"{q_name} must be (B, H, l, d) and {k_name} (B, K, l, d), got {tuple(q_shape)} and {tuple(k_shape)}"
        )
    if q.dtype != k.dtype or not q.is_floating_point():
        raise ValueError(f"{q_name} and {k_name} must share a floating dtype, got {q.dtype} and {k.dtype}")
    heads, kv_heads = q_shape[1], k_shape[1]
    if not kv_heads > 0 or heads % kv_heads != 0:
        raise ValueError(
            f"the number of query heads must be a multiple of the number of key heads, got {heads} and {kv_heads}"
        )


def require_head_tensor(name: str, x: Tensor | None, heads: Tensor) -> None:
    """Raises ValueError unless x is None or floating point in the shape of `heads`, (B, heads, l, d)."""
    if x is None:
        return
    if x.shape != heads.shape:
        raise ValueError(f"{name} must be {tuple(heads.shape)}, got {tuple(x.shape)}")
    require_floating(name, x)


def require_tables(cos: Tensor | None, sin: Tensor | None, q: Tensor) -> None:
    """Raises ValueError unless cos and sin are both None, or both (B or 1, l, r) tables that fit q (B, H, l, d)."""
    if cos is None or sin is None:
        if cos is not None or sin is not None:
            raise ValueError("cos and sin must be given together")
        return
    (batch, _, length, size), shape = q.shape, cos.shape
    if (
        shape != sin.shape
        or len(shape) != 3
        or shape[0] not in (1, batch)
        or shape[1] != length
        or shape[2] > size
        or shape[2] % 2 != 0
    ):
        raise ValueError(
            f"cos and sin must be (B or 1, {length}, r), r even and at most {size}, "
            f"got {tuple(shape)} and {tuple(sin.shape)}"
        )
    if cos.dtype != sin.dtype or not cos.is_floating_point():
        raise ValueError(f"cos and sin must share a floating dtype, got {cos.dtype} and {sin.dtype}")


def require_valid(valid: Tensor, q: Tensor) -> None:
    """Raises ValueError unless valid is (B, l) bool, for q (B, H, l, d)."""
    batch, _, length, _ = q.shape
    if valid.shape != (batch, length) or valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool {(batch, length)}, got {valid.dtype} {tuple(valid.shape)}")


def require_scores(scale: float, window: int | None, softcap: float | None) -> None:
    """Raises ValueError unless the scale of attention scores is finite, and window and softcap are None or positive."""
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    if window is not None and not window > 0:
        raise ValueError(f"window must be positive, got {window}")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap must be positive and finite, got {softcap}")


def require_sinks(sinks: Tensor | None, q: Tensor) -> None:
    """Raises ValueError unless sinks is None or floating point (H,), for q (B, H, l, d)."""
    if sinks is not None and (sinks.shape != q.shape[1:2] or not sinks.is_floating_point()):
        raise ValueError(f"sinks must be floating point ({q.shape[1]},), got {sinks.dtype} {tuple(sinks.shape)}")


def require_score_bias(bias: Tensor | None, q: Tensor, softcap: float | None) -> None:
    """Raises ValueError unless bias is None or floating point (B or 1, H, l, l), for q (B, H, l, d) without a cap."""
    if bias is None:
        return
    batch, heads, length, _ = q.shape
    if bias.shape not in ((batch, heads, length, length), (1, heads, length, length)) or not bias.is_floating_point():
        raise ValueError(
            f"bias must be floating point ({batch} or 1, {heads}, {length}, {length}), got {bias.dtype} "
            f"{tuple(bias.shape)}"
        )
    if softcap is not None:
        raise ValueError("a bias of the attention scores needs softcap=None")
