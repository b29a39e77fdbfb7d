"""Factors of queries that grow with their position (Ministral 3, Llama 4), for long documents."""

from __future__ import annotations

import torch
from torch import Tensor


def position_factors(position_ids: Tensor, growth: float, length: int) -> Tensor:
    """Returns 1 + growth ln(1 + floor(position / length)).

    It is computed in float32, as transformers does, and is 1 at the first `length` positions.

    Args:
        position_ids: int64, of any shape.
        growth: how fast the factors grow.
        length: the number of positions that share a factor.

    Returns:
        The factors in float32, in the shape of position_ids.
    """
    return 1 + growth * torch.log(1 + torch.floor(position_ids / length))
