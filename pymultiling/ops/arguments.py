"""Checks and defaults that the operators share."""

from __future__ import annotations

import torch
from torch import Tensor


def document_ids(x: Tensor, documents: Tensor | None, count: int | None) -> tuple[Tensor, int]:
    """Ids and their number: one document where none are given; the largest id + 1 where the number is not."""
    if documents is None:
        return torch.zeros(x.shape[0], dtype=torch.int64, device=x.device), 1 if count is None else count
    require(documents.shape == x.shape[:1], f"documents must be ({x.shape[0]},), got {tuple(documents.shape)}")
    require(documents.dtype == torch.int64, f"documents must be int64, got {documents.dtype}")
    if count is None:
        count = int(documents.max()) + 1 if documents.numel() else 0
    return documents, count


def require_matrix(name: str, x: Tensor) -> None:
    require(x.ndim == 2, f"{name} must be (tokens, neurons), got {tuple(x.shape)}")
    require(x.is_floating_point(), f"{name} must be floating point, got {x.dtype}")


def require_masks(x: Tensor, masks: Tensor, mask_ids: Tensor) -> None:
    require(
        masks.ndim == 2 and masks.shape[1] == x.shape[1] and masks.dtype == torch.bool,
        f"masks must be bool (sets, {x.shape[1]}), got {masks.dtype} {tuple(masks.shape)}",
    )
    require(
        mask_ids.shape == x.shape[:1] and mask_ids.dtype == torch.int64,
        f"mask_ids must be int64 ({x.shape[0]},), got {mask_ids.dtype} {tuple(mask_ids.shape)}",
    )


def require_tables(cos: Tensor | None, sin: Tensor | None, q: Tensor) -> None:
    """The tables of a rotation of q (B, H, l, d)."""
    if cos is not None:
        require(
            cos.shape == sin.shape
            and cos.ndim == 3
            and cos.shape[0] in (1, q.shape[0])
            and cos.shape[1] == q.shape[2]
            and cos.shape[2] <= q.shape[3]
            and cos.shape[2] % 2 == 0,
            f"cos and sin must be (B or 1, {q.shape[2]}, r), r even and at most {q.shape[3]}, got {tuple(cos.shape)}",
        )


def require_valid(valid: Tensor | None, q: Tensor) -> None:
    """Which tokens of q (B, H, l, d) are no padding; None: all."""
    fits = valid is None or (valid.shape == (q.shape[0], q.shape[2]) and valid.dtype == torch.bool)
    require(fits, "valid must be bool (B, l)")


def require_limits(window: int | None, softcap: float | None) -> None:
    require(window is None or window > 0, f"window must be positive, got {window}")
    require(softcap is None or softcap > 0, f"softcap must be positive, got {softcap}")


def require_finite(points: Tensor, *others) -> None:
    """On the CPU alone: a GPU is not waited for."""
    if points.device.type == "cpu":
        low, high = points.detach().aminmax()  # NaN where there is one
        require(bool(low.isfinite() & high.isfinite()), "points must be finite, some are infinite or NaN")


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
