"""Causal attention: which keys a query sees, soft caps, and probabilities under changed attention scores."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXPONENT = 60.0  # exp(60)^2 is finite in float32


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Returns a mask (queries, keys), bool: True where the query sees the key.

    Args:
        queries: (queries,), positions of the queries.
        keys: (keys,), positions of the keys.
        window: number of positions that a query sees, its own and those directly before it. None: it sees all up to its
            own.
    """
    distance = queries[:, None] - keys[None, :]
    causal = distance >= 0
    return causal if window is None else causal & (distance < window)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Returns softcap * tanh(scores / softcap), or the attention scores themselves if softcap is None."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def capped_change(scores: Tensor, y: Tensor, softcap: float | None) -> Tensor:
    """Returns how much the capped attention scores change when the scores before the cap change by y."""
    return y if softcap is None else capped(scores + y, softcap) - capped(scores, softcap)


def probability_change(log_a: Tensor, y: Tensor) -> Tensor:
    """Returns A' - A, the change of the attention probabilities A when the attention scores change by y.

    Args:
        log_a: (..., keys), log A, -inf where a key is hidden.
        y: change of the attention scores, of a shape that broadcasts with log_a.

    Returns:
        (..., keys), 0 for hidden keys.
    """
    a = log_a.exp()
    # A' does not depend on a constant added to y. Without their mean, the changes are small and lose less to rounding.
    y = y - (a * y).sum(-1, keepdim=True)
    y = y.masked_fill(log_a == -torch.inf, 0)
    if not y.shape[-1]:
        return y
    is_large = y.amax(-1, keepdim=True) > LARGEST_EXPONENT
    u = torch.expm1(y.clamp(max=LARGEST_EXPONENT))
    m = (a * u).sum(-1, keepdim=True)
    change = a * (u - m) / (1 + m)
    # On a GPU this is not asked, because the host would wait for the answer.
    if y.device.type == "cpu" and not is_large.any():
        return change
    return torch.where(is_large, (log_a + y).softmax(-1) - a, change)
