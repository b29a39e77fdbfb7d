"""qk_importance: how much each query and key neuron changes the attention probabilities.

    importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y)

S = scale q' k'^T are the attention scores. q and k are the queries and keys before the rotation, q' and k' those after
it. (In the code these are q_plain, k_plain, q and k.) y is the change of S when neuron n's row of the projection is
zero. Let c and z be the cosines and sines of a position, p the partner of n under the rotation, and sign +1 for the
first of a pair and -1 for the second. Let e_n be the unit vector of dimension n. Row n of q_proj contributes
`q[i, n] (c_i[n] e_n + sign z_i[p] e_p)` to q'_i, so that

    query neuron n:  y_ij = growth_i S_ij - x_i k'_j[n] - w_i k'_j[p]
                     x_i = scale (1 + growth_i) q[i, n] c_i[n],  w_i = scale (1 + growth_i) q[i, n] sign z_i[p]

For a key neuron the roles of q and k are exchanged, and the result is summed over the query heads that share the key.
A norm over the head makes the rest of the head grow by the factor 1 + growth without the neuron; growth is 0 without a
norm. If neurons are zeroed after the rotation, c = 1 and z = 0.
With a soft cap S = cap(S_raw) and y = cap(S_raw + y_raw) - cap(S_raw), where cap(x) = softcap tanh(x / softcap).

A bias is added to S, and no neuron changes it.

An attention sink is one more score of a head, whose softmax has a column that is dropped: A of the keys sums to less
than 1. The sum over j is over the keys, and the sink counts as one of them, with y = 0, only in the mean and in m.

softmax ignores a part of y that is constant over j, but floating-point arithmetic does not, so the mean of y under A is
subtracted first. Then `A' - A = A (u - m) / (1 + m)` with u = exp(y) - 1 and m = sum_j A u keeps its digits for small
y. Where y is too large for exp, softmax(log A + y) - A is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped_change, log_probabilities, probability_change, visible
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.rotation import rotation_pairs
from pymultiling.mathematics.sums import upcast


def qk_importance(problem: QKProblem) -> tuple[Tensor, Tensor]:
    """Computes the importance of every query and key neuron.

    Args:
        problem: the tensors and settings of an attention layer. q and q_plain are (B, H, l, d), the queries after and
            before the rotation, and q_growth, in the same shape, is the growth under their norm. k, k_plain and
            k_growth are (B, K, l, d), the same for the keys. cos and sin are (B or 1, l, r), valid is (B, l) bool.
            `QKProblem` says what None means in a field.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
    """
    q, k, q_plain, k_plain, cos, sin, valid, q_growth, k_growth, scale, window, softcap, interleaved = problem[:13]
    sinks, causal, bias = problem.sinks, problem.causal, problem.bias
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    partner, sign = rotation_pairs(size, 0 if cos is None else cos.shape[-1], interleaved, q.device)
    q_to_n, q_to_partner = neuron_parts(q, q_plain, q_growth, cos, sin, partner, sign, scale)
    k_to_n, k_to_partner = neuron_parts(k, k_plain, k_growth, cos, sin, partner, sign, scale)
    q_growth = None if q_growth is None else upcast(q_growth)
    k_growth = None if k_growth is None else upcast(k_growth)

    q_importance = q.new_zeros(batch, kv_heads, group, size)
    k_importance = k.new_zeros(batch, kv_heads, size)
    for b in range(batch):
        tokens = valid[b].nonzero().squeeze(1)
        is_visible = visible(tokens, tokens, window, causal)
        for h in range(kv_heads):
            shared = slice(h * group, (h + 1) * group)
            qh, kh = q[b, shared][:, tokens], k[b, h][tokens]
            raw = scale * qh @ kh.T
            scores = raw
            if bias is not None:
                scores = raw + upcast(bias[b % len(bias), shared][:, tokens][..., tokens])
            log_a = log_probabilities(scores, is_visible, softcap, None if sinks is None else sinks[shared])
            for n in range(size):
                p = partner[n]
                x, w = q_to_n[b, shared][..., tokens, n], q_to_partner[b, shared][..., tokens, n]
                y = -(x[..., None] * kh[:, n] + w[..., None] * kh[:, p])
                if q_growth is not None:
                    y = y + q_growth[b, shared][:, tokens, n, None] * raw
                change = probability_change(log_a, capped_change(raw, y, softcap))
                q_importance[b, h, :, n] = change.square().sum((-2, -1))

                x, w = k_to_n[b, h][..., tokens, n], k_to_partner[b, h][..., tokens, n]
                y = -(qh[..., n, None] * x + qh[..., p, None] * w)
                if k_growth is not None:
                    y = y + k_growth[b, h, tokens, n] * raw
                change = probability_change(log_a, capped_change(raw, y, softcap))
                k_importance[b, h, n] = change.square().sum((-2, -1)).sum()
    return q_importance.flatten(1), k_importance.flatten(1)


def neuron_parts(
    rotated: Tensor,
    unrotated: Tensor | None,
    growth: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    partner: Tensor,
    sign: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Returns what each neuron n contributes to dimension n and to n's partner of the rotated head.

    Both are multiplied by scale and 1 + growth: they are x and w of the module's text.

    Args:
        rotated: (B, heads, l, d), the rotated queries or keys.
        unrotated: (B, heads, l, d), those before the rotation. None: neurons are zeroed after the rotation.
        growth: (B, heads, l, d): the rest of a head grows by the factor 1 + growth without the neuron. None: no norm.
        cos: (B or 1, l, r), cosines of the rotation. None: no rotation.
        sin: (B or 1, l, r), sines of the rotation. None: no rotation.
        partner: (d,) int64, the partner of each dimension under the rotation.
        sign: (d,), +1 for the first of a pair and -1 for the second.
        scale: factor of the attention scores.

    Returns:
        The contributions to dimension n and those to n's partner, (B, heads, l, d) each.
    """
    if unrotated is None:
        return scale * rotated, torch.zeros_like(rotated)
    coefficient = scale * upcast(unrotated)
    if growth is not None:
        coefficient = coefficient * (1 + upcast(growth))
    if cos is None or sin is None:
        return coefficient, torch.zeros_like(rotated)
    size, turned = rotated.shape[-1], cos.shape[-1]
    cosine = torch.nn.functional.pad(upcast(cos), (0, size - turned), value=1.0)[:, None]
    sine = torch.nn.functional.pad(upcast(sin), (0, size - turned))[:, None]
    return coefficient * cosine, coefficient * sign * sine[..., partner]
