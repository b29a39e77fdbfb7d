"""Causal attention: which keys a query sees, soft caps, and what a change of the scores does to the probabilities."""

import torch
from torch import Tensor

LARGEST_EXPONENT = 60.0  # exp(60)^2 is finite in float32


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """(queries, keys) bool, from positions: a key may be seen that is not after the query, and within the window."""
    distance = queries[:, None] - keys[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def probability_change(log_a: Tensor, y: Tensor) -> Tensor:
    """A' - A for scores changed by y, over the last dimension; log_a is log A, -inf where a key is hidden."""
    a = log_a.exp()
    y = y - (a * y).sum(-1, keepdim=True)
    y = y.masked_fill(log_a == -torch.inf, 0)
    if y.numel() and y.max() > LARGEST_EXPONENT:
        return (log_a + y).softmax(-1) - a
    u = torch.expm1(y)
    m = (a * u).sum(-1, keepdim=True)
    return a * (u - m) / (1 + m)
