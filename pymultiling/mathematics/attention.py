"""Attention: which keys a query sees, soft caps, and probabilities under changed attention scores."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXPONENT = 60.0  # exp(60)^2 is finite in float32


def visible(queries: Tensor, keys: Tensor, window: int | None, causal: bool = True) -> Tensor:
    """Returns a mask (queries, keys), bool: True where the query sees the key.

    Args:
        queries: (queries,), positions of the queries.
        keys: (keys,), positions of the keys.
        window: number of positions that a query sees, its own and those directly before it. None: it sees all up to its
            own.
        causal: whether a query sees no keys after its own. False: it sees as many of them as of those before it.
    """
    distance = queries[:, None] - keys[None, :]
    if not causal:
        distance = distance.abs()
    sees = distance >= 0
    return sees if window is None else sees & (distance < window)


def capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Returns softcap * tanh(scores / softcap), or the attention scores themselves if softcap is None."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def log_probabilities(scores: Tensor, is_visible: Tensor, softcap: float | None, sinks: Tensor | None = None) -> Tensor:
    """Returns the logarithms of the attention probabilities: log softmax of the capped scores of the visible keys.

    An infinite score is no number that a softmax can weigh, so its row is NaN, with a soft cap too.

    Args:
        scores: (..., queries, keys), the attention scores before the soft cap.
        is_visible: bool, of a shape that broadcasts with scores. Keys that are not visible get -inf.
        softcap: soft cap of the attention scores. None: they are not capped.
        sinks: of a shape that broadcasts with (...,), the scores of attention sinks, which are not capped. A sink takes
            a part of the probability of each query, but is no key. None: there are none.

    Returns:
        (..., queries, keys). With sinks (..., queries, keys + 1), where the last column is that of the sink.
    """
    logits = capped(_infinite_to_nan(scores), softcap).masked_fill(~is_visible, -torch.inf)
    if sinks is not None:
        column = sinks.to(logits.dtype)[..., None, None].expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, column], -1)
    return logits.log_softmax(-1)


def capped_change(scores: Tensor, y: Tensor, softcap: float | None) -> Tensor:
    """Returns how much the capped attention scores change when the scores before the cap change by y.

    An infinite y gives NaN. With the logistic function s, x = 2 scores / softcap, z = 2 y / softcap and the sign of z,

        softcap (tanh((x + z) / 2) - tanh(x / 2)) = sign 2 softcap s(sign (x + z)) s(-sign x) (1 - e^-|z|)

    which keeps its digits where both tanh are about 1, and where y is small.
    """
    y = _infinite_to_nan(y)
    if softcap is None:
        return y
    x, z = 2 / softcap * scores, 2 / softcap * y
    sign = z.sign()
    slopes = torch.sigmoid(sign * (x + z)) * torch.sigmoid(-sign * x)
    return -2 * softcap * sign * slopes * torch.expm1(-z.abs())


def _infinite_to_nan(x: Tensor) -> Tensor:
    return torch.where(x.isinf(), torch.nan, x)


def needs_logarithms(largest_y: Tensor, m: Tensor) -> Tensor:
    """Returns where exp is no way to weigh changed attention scores, because they are too large for it or its sums.

    Args:
        largest_y: the largest change of the scores of a query, whose weighted mean is 0.
        m: the weighted mean of exp(y) - 1. It is at least 0 (Jensen). It is below that only where the changes are so
            large that their mean, which was subtracted, has rounded by more than 1; towards -1 no digit is left.
    """
    return (largest_y > LARGEST_EXPONENT) | (m < -0.5)


def probability_change(log_a: Tensor, y: Tensor) -> Tensor:
    """Returns A' - A, the change of the attention probabilities A when the attention scores change by y.

    Args:
        log_a: (..., keys), log A, -inf where a key is hidden. It may have one more column, that of a sink.
        y: (..., keys), change of the attention scores; the leading dimensions broadcast with those of log_a. The score
            of a sink does not change.

    Returns:
        (..., keys), 0 for hidden keys.
    """
    keys = y.shape[-1]
    if log_a.shape[-1] > keys:
        y = torch.nn.functional.pad(y, (0, 1))
        return probability_change(log_a, y)[..., :keys]
    a = log_a.exp()
    # A' does not depend on a constant added to y. Without their mean, the changes are small and lose less to rounding.
    y = y - (a * y).sum(-1, keepdim=True)
    y = y.masked_fill(log_a == -torch.inf, 0)
    if not y.shape[-1]:
        return y
    u = torch.expm1(y.clamp(max=LARGEST_EXPONENT))
    m = (a * u).sum(-1, keepdim=True)
    largest_y = y.amax(-1, keepdim=True)
    is_large = needs_logarithms(largest_y, m)
    change = a * (u - m) / (1 + m)
    # On a GPU this is not asked, because the host would wait for the answer.
    if y.device.type == "cpu" and not is_large.any():
        return change
    return torch.where(is_large, (log_a + (y - largest_y)).softmax(-1) - a, change)
