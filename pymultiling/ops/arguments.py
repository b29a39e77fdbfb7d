"""Types, checks and defaults of arguments that several operators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Backend: TypeAlias = Literal["auto", "triton", "cuda", "cpp", "torch"]
KernelBackend: TypeAlias = Literal["triton", "cuda", "cpp"]
Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]
Metric: TypeAlias = Literal["cosine", "euclidean"]
Mode: TypeAlias = Literal["exact", "fast"]


def document_ids(x: Tensor, documents: Tensor | None, count: int | None) -> tuple[Tensor, int]:
    """Checks or fills in the document indices of the rows of x and the number of documents.

    Args:
        x: (tokens, N).
        documents: (tokens,) int64, the document index of each token. None: all tokens are document 0.
        count: number of documents. None: the largest index + 1.

    Returns:
        The document indices (tokens,) int64, and the number of documents.

    Raises:
        ValueError: the shape or dtype of `documents` does not fit.
    """
    if documents is None:
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device), 1 if count is None else count
    require(documents.shape == x.shape[:1], lambda: f"documents must be ({x.shape[0]},), got {tuple(documents.shape)}")
    require(documents.dtype == torch.int64, lambda: f"documents must be int64, got {documents.dtype}")
    if count is None:
        count = int(documents.max()) + 1 if documents.numel() else 0
    return documents, count


def require_matrix(name: str, x: Tensor) -> None:
    """Raises ValueError unless x is a floating-point matrix. `name` is its name in the message."""
    require(x.ndim == 2, lambda: f"{name} must be (tokens, neurons), got {tuple(x.shape)}")
    require(x.is_floating_point(), lambda: f"{name} must be floating point, got {x.dtype}")


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
            f"cos and sin must be (B or 1, {q.shape[2]}, r), r even and at most {q.shape[3]}, got {tuple(cos.shape)}"
        ),
    )


def require_valid(valid: Tensor | None, q: Tensor) -> None:
    """Raises ValueError unless valid is None or (B, l) bool, for q (B, H, l, d)."""
    if valid is None:
        return
    shape = (q.shape[0], q.shape[2])
    require(
        valid.shape == shape and valid.dtype == torch.bool,
        lambda: f"valid must be bool {shape}, got {valid.dtype} {tuple(valid.shape)}",
    )


def all_valid(q: Tensor) -> Tensor:
    """Returns the (B, l) mask that declares all tokens of q (B, H, l, d) valid."""
    return torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)


def require_limits(window: int | None, softcap: float | None) -> None:
    """Raises ValueError unless window and softcap are None or positive."""
    require(window is None or window > 0, lambda: f"window must be positive, got {window}")
    require(softcap is None or softcap > 0, lambda: f"softcap must be positive, got {softcap}")


def require_finite(points: Tensor, k: int, metric: Metric) -> None:
    """Raises ValueError if points on the CPU are not finite. On a GPU the check would have to wait for the points."""
    if points.device.type == "cpu":
        low, high = points.detach().aminmax()  # NaN if any point has one
        require(bool(low.isfinite() & high.isfinite()), "points must be finite, some are infinite or NaN")


def require(condition: bool, message: str | Callable[[], str]) -> None:
    """Raises ValueError with the message, or with what the function returns, unless the condition holds.

    To format a message takes microseconds, so a message that depends on the arguments is a function.
    """
    if not condition:
        raise ValueError(message if isinstance(message, str) else message())
