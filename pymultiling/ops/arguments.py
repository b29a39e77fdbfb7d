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


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
