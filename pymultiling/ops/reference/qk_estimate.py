"""qk_estimate: as qk_importance, but a row's sums run over at most 16 keys, some of them drawn.

A row (query i, head h) sees c keys, in order, with probabilities A_j. Up to SLOTS = 16 keys count as they are,
w_j = A_j. Of more,

  * keys with A_j > theta are certain: w_j = A_j. theta is the lowest of 0.07 2^-m, m = 0 ... 7, that at most 8 keys
    pass, 0.07 if there is none: 15 keys cannot pass it, their A would sum to 1.05;
  * the rest, with mass M, gets the other slots: R = 16 - (certain keys), made even, draws r = 0 ... R-1, evenly spaced
    in the running sum C_j of the rest's probabilities. Draw r hits the key with C_{j-1} <= (r + o) M / R < C_j. A hit
    weighs M / R, so a key's expected weight is A_j.

The offset o = frac(0.6180339887498949 c) is spread evenly over rows and needs no state: the estimate is a function of
its input, and padding does not change it. Draws land on keys with A_j > 0 whatever rounding does, and the weights sum
to 1.

    v_j = exp(y_j),  Z = sum_j w_j v_j,  f = sum_j w_j A_j (v_j / Z - 1)^2,  importance[n] = sum of f over the rows

estimates sum_j (A'_j - A_j)^2. Even and odd draws (each weighs 2 M / R) make two estimates f_a and f_b from half the
draws; the standard error of importance[n] is sqrt(sum over the rows of ((f_a - f_b) / 2)^2).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.mathematics.attention import LARGEST_EXPONENT, capped, visible
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.rotation import rotation_pairs
from pymultiling.mathematics.sums import upcast
from pymultiling.ops.reference.qk_importance import removed

SLOTS = 16  # keys that a row's sums run over
CERTAIN = SLOTS // 2  # of them, unless the highest threshold lets more pass
THRESHOLDS = [0.07 * 2.0**-m for m in range(8)]
GOLDEN = 0.6180339887498949  # (5^0.5 - 1) / 2: its multiples fill the unit interval evenly
ROWS = 1024  # of one head at a time, so that memory is in proportion to ROWS


class Slots(NamedTuple):
    """The keys that each row's sums run over, (rows, SLOTS): the certain ones, then the draws; a key may come twice."""

    key: Tensor  # int64
    log_a: Tensor
    weights: list[tuple[Tensor, Tensor]]  # of all draws, the even and the odd ones: w, and log w (-inf: not used)


def qk_estimate(problem: QKProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, H d) of the query neurons, (B, K d) of the key neurons, and their standard errors."""
    q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved = problem
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    group = heads // k.shape[1]
    partner, sign = rotation_pairs(size, 0 if cos is None else cos.shape[-1], interleaved, q.device)
    q_near, q_far = removed(q, q_plain, q_gain, cos, sin, partner, sign, scale)
    k_near, k_far = removed(k, k_plain, k_gain, cos, sin, partner, sign, scale)

    sums = q.new_zeros(2, batch, heads, size)  # of f, and of its variance
    key_sums = k.new_zeros(2, batch, k.shape[1], size)
    for b in range(batch):
        tokens = valid[b].nonzero().squeeze(1)
        for h in range(heads if len(tokens) else 0):
            kv = h // group
            qh, kh = q[b, h, tokens], k[b, kv, tokens]
            qp, kp = qh[:, partner], kh[:, partner]
            for rows in torch.arange(len(tokens), device=q.device).split(ROWS):
                raw = scale * qh[rows] @ kh.T
                seen = visible(tokens[rows], tokens, window)
                slots = chosen(capped(raw, softcap).masked_fill(~seen, -torch.inf).log_softmax(-1), seen, rows)
                at = slots.key

                near, far = q_near[b, h, tokens[rows], None], q_far[b, h, tokens[rows], None]
                y = -(near * kh[at] + far * kp[at])
                gain = None if q_gain is None else upcast(q_gain)[b, h, tokens[rows], None]
                sums[:, b, h] += _estimates(slots, _change(y, gain, raw.gather(1, at), softcap))

                near, far = k_near[b, kv, tokens][at], k_far[b, kv, tokens][at]
                y = -(qh[rows, None] * near + qp[rows, None] * far)
                gain = None if k_gain is None else upcast(k_gain)[b, kv, tokens][at]
                key_sums[:, b, kv] += _estimates(slots, _change(y, gain, raw.gather(1, at), softcap))
    (q_sum, q_variance), (k_sum, k_variance) = sums.flatten(2), key_sums.flatten(2)
    return q_sum, k_sum, q_variance.sqrt(), k_variance.sqrt()


def chosen(log_a: Tensor, seen: Tensor, own: Tensor) -> Slots:
    """Which keys each row's sums run over, and their weights.

    log_a: (rows, keys), log A; seen: bool of the same shape; own: (rows,), a key that the row sees.
    """
    a, count = log_a.exp(), seen.sum(-1, keepdim=True)
    threshold = a.new_full(count.shape, THRESHOLDS[0])
    for lower in THRESHOLDS[1:]:
        threshold = torch.where((a > lower).sum(-1, keepdim=True) <= CERTAIN, lower, threshold)
    certain = torch.where(count <= SLOTS, seen, a > threshold)
    number = certain.sum(-1, keepdim=True)
    draws = torch.where(count <= SLOTS, 0, (SLOTS - number) // 2 * 2)

    # A key that cannot be drawn has its predecessor's running sum, so that no draw stops there.
    rest = a.masked_fill(certain, 0).double()
    running = torch.where(rest > 0, rest.cumsum(-1), 0).cummax(-1).values
    mass = running[:, -1:].contiguous()
    slot = torch.arange(SLOTS, device=a.device).expand(len(a), -1)
    draw = slot - number
    step = mass / draws.clamp(min=1)
    point = (draw + (GOLDEN * count.double()).frac()) * step
    drawn = torch.minimum(torch.searchsorted(running, point, right=True), torch.searchsorted(running, mass))

    is_certain = draw < 0
    is_draw = ~is_certain & (draw < draws) & (mass != 0)
    key = torch.where(is_certain, torch.searchsorted(certain.cumsum(-1), slot + 1), drawn.clamp(max=a.shape[1] - 1))
    key = torch.where(is_certain | is_draw, key, own[:, None])
    log_a, step = log_a.gather(1, key), step.to(a.dtype)
    weights = []
    for mine, weight in ((is_draw, step), (is_draw & (draw % 2 == 0), 2 * step), (is_draw & (draw % 2 == 1), 2 * step)):
        log_weight = torch.where(is_certain, log_a, torch.where(mine, weight.log(), -torch.inf))
        weights.append((torch.where(is_certain, log_a.exp(), torch.where(mine, weight, 0)), log_weight))
    return Slots(key, log_a, weights)


def squared_change(log_a: Tensor, weight: Tensor, log_weight: Tensor, y: Tensor) -> Tensor:
    """f of every row and neuron; y is (rows, SLOTS, neurons), the others (rows, SLOTS).

    f does not depend on a shift of y. Under its weighted mean small y keep their digits; where y is too large for exp,
    logarithms do, with f = sum_j A_j / w_j (p_j - w_j)^2 and p = softmax(log w + y).
    """
    log_a, weight, log_weight = log_a[..., None], weight[..., None], log_weight[..., None]
    a = log_a.exp()
    y = y - (weight * y).sum(1, keepdim=True)
    y = y.masked_fill(log_weight == -torch.inf, 0)
    large = y.amax(1) > LARGEST_EXPONENT
    u = torch.expm1(y.clamp(max=LARGEST_EXPONENT))
    m = (weight * u).sum(1, keepdim=True)
    change = (u - m) / (1 + m)
    f = ((weight * change) * (a * change)).sum(1)  # the square alone may overflow where the weight is 0
    if large.any():
        share = (log_a - log_weight).exp().masked_fill(log_weight == -torch.inf, 0)
        f = torch.where(large, (share * ((log_weight + y).softmax(1) - weight).square()).sum(1), f)
    return f


def _change(y: Tensor, gain: Tensor | None, raw: Tensor, softcap: float | None) -> Tensor:
    """y with a norm's gain and under a soft cap; raw: (rows, SLOTS), the scores before it."""
    raw = raw[..., None]
    if gain is not None:
        y = y + (gain - 1) * raw
    return y if softcap is None else capped(raw + y, softcap) - capped(raw, softcap)


def _estimates(slots: Slots, y: Tensor) -> Tensor:
    """(2, neurons): sums over the rows of f, and of its variance as its halves differ."""
    f, even, odd = (squared_change(slots.log_a, *weights, y) for weights in slots.weights)
    return torch.stack([f.sum(0), ((even - odd) / 2).square().sum(0)])
