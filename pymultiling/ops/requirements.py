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
    require(x.is_floating_point(), lambda: f"{name} must be floating point, got {x.dtype}")


def require_matrix(name: str, x: Tensor) -> None:
    """Raises ValueError unless x is a floating-point matrix. `name` is its name in the message."""
    require(x.ndim == 2, lambda: f"{name} must be (tokens, neurons), got {tuple(x.shape)}")
    require_floating(name, x)


def require_like(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless x has the shape and the dtype of another tensor."""
    require(
        x.shape == other.shape and x.dtype == other.dtype,
        lambda: (
            f"{name} must be {tuple(other.shape)} in {other.dtype} like {other_name}, got {tuple(x.shape)} in {x.dtype}"
        ),
    )


def require_documents(
    x: Tensor, documents: Tensor, count: int, offsets: Tensor | None = None, order: Tensor | None = None
) -> None:
    """Raises ValueError unless the documents fit x (tokens, N): `documents` (tokens,) int64, and `Documents`."""
    tokens = x.shape[0]
    require(documents.shape == x.shape[:1], lambda: f"documents must be ({tokens},), got {tuple(documents.shape)}")
    require(documents.dtype == torch.int64, lambda: f"documents must be int64, got {documents.dtype}")
    require(count >= 0, lambda: f"count must not be negative, got {count}")
    if offsets is None:
        require(order is None, "order needs offsets: give both, as group_tokens does")
        return
    require(
        offsets.shape == (count + 1,) and offsets.dtype == torch.int32 and offsets.is_contiguous(),
        lambda: f"offsets must be int32 ({count + 1},) and contiguous, got {offsets.dtype} {tuple(offsets.shape)}",
    )
    if order is not None:
        require(
            order.shape == (tokens,) and order.dtype == torch.int32 and order.is_contiguous(),
            lambda: f"order must be int32 ({tokens},) and contiguous, got {order.dtype} {tuple(order.shape)}",
        )


def require_mask_sets(x: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    """Raises ValueError unless masks is (sets, N) bool and mask_ids (tokens,) int64, for x (tokens, N)."""
    require(
        masks.ndim == 2 and masks.shape[1] == x.shape[1] and masks.dtype == torch.bool,
        lambda: f"masks must be bool (sets, {x.shape[1]}), got {masks.dtype} {tuple(masks.shape)}",
    )
    require(
        mask_ids.shape == x.shape[:1] and mask_ids.dtype == torch.int64,
        lambda: f"mask_ids must be int64 ({x.shape[0]},), got {mask_ids.dtype} {tuple(mask_ids.shape)}",
    )


def require_gram(name: str, gram: Tensor, x: Tensor) -> None:
    """Raises ValueError unless gram is (K, d, G, G) with K d G = N for x (tokens, N), in the dtype of sums of x."""
    require(
        gram.ndim == 4
        and gram.shape[2] == gram.shape[3]
        and gram.shape[0] * gram.shape[1] * gram.shape[2] == x.shape[1],
        lambda: f"{name} must be (K, d, G, G) with K d G = {x.shape[1]}, got {tuple(gram.shape)}",
    )
    expected = torch.promote_types(x.dtype, torch.float32)
    require(gram.dtype == expected, lambda: f"{name} must be {expected} for {x.dtype} input, got {gram.dtype}")


def require_heads(q_name: str, q: Tensor, k_name: str, k: Tensor) -> None:
    """Raises ValueError unless q is (B, H, l, d) and k (B, K, l, d), in one floating dtype, with K dividing H."""
    require(
        q.ndim == 4 and k.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[2:] == k.shape[2:],
        lambda: f"{q_name} must be (B, H, l, d) and {k_name} (B, K, l, d), got {tuple(q.shape)} and {tuple(k.shape)}",
    )
    require(
        q.is_floating_point() and q.dtype == k.dtype,
        lambda: f"{q_name} and {k_name} must share a floating dtype, got {q.dtype} and {k.dtype}",
    )
    require(
        k.shape[1] > 0 and q.shape[1] % k.shape[1] == 0,
        lambda: (
            "the number of query heads must be a multiple of the number of key heads, "
            f"got {q.shape[1]} and {k.shape[1]}"
        ),
    )


def require_head_tensor(name: str, x: Tensor | None, heads: Tensor) -> None:
    """Raises ValueError unless x is None or floating point in the shape of `heads`, (B, heads, l, d)."""
    if x is None:
        return
    require(x.shape == heads.shape, lambda: f"{name} must be {tuple(heads.shape)}, got {tuple(x.shape)}")
    require_floating(name, x)


def require_tables(cos: Tensor | None, sin: Tensor | None, q: Tensor) -> None:
    """Raises ValueError unless cos and sin are both None, or both (B or 1, l, r) tables that fit q (B, H, l, d)."""
    if cos is None or sin is None:
        require(cos is None and sin is None, "cos and sin must be given together")
        return
    require(
        cos.shape == sin.shape
        and cos.ndim == 3
        and cos.shape[0] in (1, q.shape[0])
        and cos.shape[1] == q.shape[2]
        and cos.shape[2] <= q.shape[3]
        and cos.shape[2] % 2 == 0,
        lambda: (
            f"cos and sin must be (B or 1, {q.shape[2]}, r), r even and at most {q.shape[3]}, "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        ),
    )
    require(
        cos.is_floating_point() and sin.dtype == cos.dtype,
        lambda: f"cos and sin must share a floating dtype, got {cos.dtype} and {sin.dtype}",
    )


def require_valid(valid: Tensor, q: Tensor) -> None:
    """Raises ValueError unless valid is (B, l) bool, for q (B, H, l, d)."""
    shape = (q.shape[0], q.shape[2])
    require(
        valid.shape == shape and valid.dtype == torch.bool,
        lambda: f"valid must be bool {shape}, got {valid.dtype} {tuple(valid.shape)}",
    )


def require_scores(scale: float, window: int | None, softcap: float | None) -> None:
    """Raises ValueError unless the scale of attention scores is finite, and window and softcap are None or positive."""
    require(math.isfinite(scale), lambda: f"scale must be finite, got {scale}")
    require(window is None or window > 0, lambda: f"window must be positive, got {window}")
    require(softcap is None or 0 < softcap < math.inf, lambda: f"softcap must be positive and finite, got {softcap}")
