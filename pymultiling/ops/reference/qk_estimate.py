"""qk_estimate: as qk_importance, but the sums of a query run over at most 16 keys, some of which are drawn.

A query sees c keys with probabilities A_j, in the order of their positions. Each sum has SLOTS = 16 slots. If c is at
most SLOTS, all keys have the weight w_j = A_j. If c is larger,

  * keys with A_j > theta are certain: they have a slot and the weight w_j = A_j. theta is the lowest of the thresholds
    0.07 2^-m, m = 0 ... 7, that at most 8 keys pass, or 0.07 if there is none. At most 14 keys pass 0.07, because the A
    of 15 such keys would sum to 1.05;
  * from the other keys, whose A sum to M, R keys are drawn, where R is 16 - (number of certain keys), rounded down to
    an even number. The draws r = 0 ... R - 1 are evenly spaced in the running sum C_j of the other keys' A: draw r
    selects the key with C_{j-1} <= (r + o) M / R < C_j. Each draw adds M / R to the weight of its key, so the expected
    weight of a key is A_j.

The offset o = frac(0.6180339887498949 p) is spread evenly over the queries. p is the number of keys that the query sees
up to its own, in causal attention c. The estimate is a function of its input alone, and padding does not change it.
Whatever the rounding, draws select keys with A_j > 0. The weights sum to 1.

    v_j = exp(y_j),  Z = sum_j w_j v_j,  f = sum_j w_j A_j (v_j / Z - 1)^2,  importance[n] = sum of f over the queries

An attention sink with the probability a of the query is in Z alone, Z = a + sum_j w_j v_j, since its score does not
change. The weights then sum to 1 - a.

y_j is the change of the query's attention score of key j when neuron n is zeroed. f estimates sum_j (A'_j - A_j)^2,
where A' are the probabilities without the neuron. The even and the odd draws (each of weight 2 M / R) give two
estimates f_a and f_b from half of the draws. The spread of importance[n] is
sqrt(sum over the queries of ((f_a - f_b) / 2)^2).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pymultiling.mathematics.attention import (
    LARGEST_EXPONENT,
    capped_change,
    log_probabilities,
    needs_logarithms,
    visible,
)
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.rotation import rotation_pairs
from pymultiling.mathematics.sums import upcast
from pymultiling.ops.reference.qk_importance import neuron_parts

SLOTS = 16  # keys that a query's sums run over
CERTAIN = SLOTS // 2  # most slots of certain keys, unless more keys pass the highest threshold
THRESHOLDS = [0.07 * 2.0**-m for m in range(8)]
GOLDEN = 0.6180339887498949  # (5^0.5 - 1) / 2: its multiples fill the unit interval evenly
ROWS = 1024  # queries of one head at a time, so that memory is proportional to ROWS


class Slots(NamedTuple):
    """The keys that the sums of each row (query) run over: the certain keys, then the drawn keys.

    A key may be drawn more than once. With an attention sink, `with_sink` adds one more slot to log_a and weights.

    Attributes:
        key: (rows, SLOTS) int64, indices of the keys. Unused slots have the index of some key that the query sees.
        log_a: (rows, SLOTS), log A of the keys.
        weights: three pairs (w, log w), (rows, SLOTS) each: of the certain keys with all draws, with the even draws,
            and with the odd draws. w is 0 and log w is -inf in slots that the pair does not use.
    """

    key: Tensor
    log_a: Tensor
    weights: list[tuple[Tensor, Tensor]]


def qk_estimate(problem: QKProblem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Estimates the importance of every query and key neuron, and its spread.

    Args:
        problem: the tensors and settings of an attention layer. q and q_plain are (B, H, l, d), the queries after and
            before the rotation, and q_growth, in the same shape, is the growth under their norm. k, k_plain and
            k_growth are (B, K, l, d), the same for the keys. cos and sin are (B or 1, l, r), valid is (B, l) bool.
            `QKProblem` says what None means in a field.

    Returns:
        q, k, q_error and k_error: the importance of the query neurons (B, H d) and of the key neurons (B, K d), and
        their spreads (B, H d) and (B, K d). All are float32, or float64 for float64 input.
    """
    q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, scale, window, softcap, interleaved = problem[:13]
    sinks, causal, bias = problem.sinks, problem.causal, problem.bias
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    group = heads // k.shape[1]
    partner, sign = rotation_pairs(size, 0 if cos is None else cos.shape[-1], interleaved, q.device)
    q_to_n, q_to_partner = neuron_parts(q, q_plain, q_growth, cos, sin, partner, sign, scale)
    k_to_n, k_to_partner = neuron_parts(k, k_plain, k_growth, cos, sin, partner, sign, scale)

    q_sums = q.new_zeros(2, batch, heads, size)  # sums of f, and of the variance of f
    k_sums = k.new_zeros(2, batch, k.shape[1], size)
    for b in range(batch):
        tokens = valid[b].nonzero().squeeze(1)
        for h in range(heads if len(tokens) else 0):
            kv = h // group
            qh, kh = q[b, h, tokens], k[b, kv, tokens]
            qp, kp = qh[:, partner], kh[:, partner]
            for rows in torch.split(torch.arange(len(tokens), device=q.device), ROWS):
                raw = scale * qh[rows] @ kh.T
                is_visible = visible(tokens[rows], tokens, window, causal)
                scores = raw
                if bias is not None:
                    scores = raw + upcast(bias[b % len(bias), h, tokens[rows]][:, tokens])
                log_a = log_probabilities(scores, is_visible, softcap, None if sinks is None else sinks[h])
                slots = choose_keys(log_a[:, : len(tokens)], is_visible, rows)
                if sinks is not None:
                    slots = with_sink(slots, log_a[:, -1:])
                slot_scores = raw.gather(1, slots.key)

                to_n, to_partner = q_to_n[b, h, tokens[rows], None], q_to_partner[b, h, tokens[rows], None]
                y = -(to_n * kh[slots.key] + to_partner * kp[slots.key])
                growth = None if q_growth is None else upcast(q_growth)[b, h, tokens[rows], None]
                q_sums[:, b, h] += _row_sums(slots, _capped_change_with_growth(y, growth, slot_scores, softcap))

                to_n, to_partner = k_to_n[b, kv, tokens][slots.key], k_to_partner[b, kv, tokens][slots.key]
                y = -(qh[rows, None] * to_n + qp[rows, None] * to_partner)
                growth = None if k_growth is None else upcast(k_growth)[b, kv, tokens][slots.key]
                k_sums[:, b, kv] += _row_sums(slots, _capped_change_with_growth(y, growth, slot_scores, softcap))
    (q_sum, q_variance), (k_sum, k_variance) = q_sums.flatten(2), k_sums.flatten(2)
    return q_sum, k_sum, q_variance.sqrt(), k_variance.sqrt()


def choose_keys(log_a: Tensor, is_visible: Tensor, own_key: Tensor) -> Slots:
    """Chooses the keys that the sums of each row (query) run over, and their weights.

    Args:
        log_a: (rows, keys), log A.
        is_visible: (rows, keys) bool, the keys that each query sees.
        own_key: (rows,) int64, the query's own key, which slots that stay empty have.
    """
    a, count = log_a.exp(), is_visible.sum(-1, keepdim=True)
    threshold = a.new_full(count.shape, THRESHOLDS[0])
    for lower in THRESHOLDS[1:]:
        threshold = torch.where((a > lower).sum(-1, keepdim=True) <= CERTAIN, lower, threshold)
    certain = torch.where(count <= SLOTS, is_visible, a > threshold)
    certain_count = certain.sum(-1, keepdim=True)
    draws = torch.where(count <= SLOTS, 0, (SLOTS - certain_count) // 2 * 2)

    # A key that cannot be drawn has the running sum of its predecessor, so that no draw stops there.
    rest = a.masked_fill(certain, 0).double()
    running = torch.where(rest > 0, rest.cumsum(-1), 0).cummax(-1).values
    mass = running[:, -1:].contiguous()
    slot = torch.arange(SLOTS, device=a.device).expand(len(a), -1)
    draw = slot - certain_count
    step = mass / draws.clamp(min=1)
    number = is_visible.cumsum(-1).gather(1, own_key[:, None])
    point = (draw + (GOLDEN * number.double()).frac()) * step
    drawn = torch.minimum(torch.searchsorted(running, point, right=True), torch.searchsorted(running, mass))

    is_certain = draw < 0
    is_draw = ~is_certain & (draw < draws) & (mass != 0)
    key = torch.where(is_certain, torch.searchsorted(certain.cumsum(-1), slot + 1), drawn.clamp(max=a.shape[1] - 1))
    key = torch.where(is_certain | is_draw, key, own_key[:, None])
    log_a, step = log_a.gather(1, key), step.to(a.dtype)
    is_even, is_odd = is_draw & (draw % 2 == 0), is_draw & (draw % 2 == 1)
    weights = []
    for is_used, weight in ((is_draw, step), (is_even, 2 * step), (is_odd, 2 * step)):
        log_weight = torch.where(is_certain, log_a, torch.where(is_used, weight.log(), -torch.inf))
        weights.append((torch.where(is_certain, log_a.exp(), torch.where(is_used, weight, 0)), log_weight))
    return Slots(key, log_a, weights)


def with_sink(slots: Slots, log_sink: Tensor) -> Slots:
    """Adds a slot for the attention sink. Its weight is in Z, but with A = 0 it adds nothing to f.

    Args:
        slots: those of `choose_keys`.
        log_sink: (rows, 1), the logarithm of the sink's probability.
    """
    pairs = [
        (torch.cat([weight, log_sink.exp()], 1), torch.cat([log_weight, log_sink], 1))
        for weight, log_weight in slots.weights
    ]
    return Slots(slots.key, torch.cat([slots.log_a, torch.full_like(log_sink, -torch.inf)], 1), pairs)


def squared_change(log_a: Tensor, weight: Tensor, log_weight: Tensor, y: Tensor) -> Tensor:
    """Returns f of every query and neuron, (rows, neurons).

    f does not change when a constant is added to y of all slots, that of a sink included. With the weighted mean
    subtracted, small y keep their digits. Where y is too large for exp, f is computed from logarithms:
    f = sum_j A_j / w_j (p_j - w_j)^2, where p = softmax(log w + y).

    Args:
        log_a: (rows, SLOTS), log A.
        weight: (rows, SLOTS), w.
        log_weight: (rows, SLOTS), log w.
        y: (rows, SLOTS, neurons), changes of the attention scores.
    """
    log_a, weight, log_weight = log_a[..., None], weight[..., None], log_weight[..., None]
    a = log_a.exp()
    y = y - (weight * y).sum(1, keepdim=True)
    y = y.masked_fill(log_weight == -torch.inf, 0)
    u = torch.expm1(y.clamp(max=LARGEST_EXPONENT))
    m = (weight * u).sum(1, keepdim=True)
    largest_y = y.amax(1, keepdim=True)
    large = needs_logarithms(largest_y, m)[:, 0]
    change = (u - m) / (1 + m)
    f = ((weight * change) * (a * change)).sum(1)  # in this order, as change^2 may overflow where the weight is 0
    if large.any():
        ratio = (log_a - log_weight).exp().masked_fill(log_weight == -torch.inf, 0)
        f = torch.where(large, (ratio * ((log_weight + (y - largest_y)).softmax(1) - weight).square()).sum(1), f)
    return f


def _capped_change_with_growth(y: Tensor, growth: Tensor | None, raw: Tensor, softcap: float | None) -> Tensor:
    """Returns the change of the capped attention scores when neurons are zeroed, (rows, SLOTS, neurons).

    Args:
        y: (rows, SLOTS, neurons), the change before the cap, without the growth of the other dimensions of the head.
        growth: (rows, 1 or SLOTS, neurons): a norm makes the head grow by the factor 1 + growth without the neuron.
            This changes the attention score before the cap by growth raw. None: no norm.
        raw: (rows, SLOTS), the attention scores before the cap.
        softcap: soft cap of the attention scores. None: they are not capped.
    """
    raw = raw[..., None]
    if growth is not None:
        y = y + growth * raw
    return capped_change(raw, y, softcap)


def _row_sums(slots: Slots, y: Tensor) -> Tensor:
    """Returns (2, neurons): the sums over the queries of f and of ((f_a - f_b) / 2)^2, the variance of f.

    Args:
        slots: the keys of the queries.
        y: (rows, SLOTS, neurons), changes of the attention scores of these keys.
    """
    y = torch.nn.functional.pad(y, (0, 0, 0, slots.log_a.shape[1] - y.shape[1]))  # the score of a sink does not change
    f, even, odd = (squared_change(slots.log_a, *weights, y) for weights in slots.weights)
    return torch.stack([f.sum(0), ((even - odd) / 2).square().sum(0)])
