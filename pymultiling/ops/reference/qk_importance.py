"""qk_importance: how far each query and key neuron moves the attention probabilities.

    importance[n] = sum_ij (A'_ij - A_ij)^2,   A = softmax(S),   A' = softmax(S + y)

S = scale q' k'^T, q' and k' rotated; y is the change of S when neuron n's row of the projection is zero. With c, z the
cosines and sines of a position, p the partner of n under the rotation and sign +1 for the first of a pair, -1 for the
second, one row of q_proj takes `q[i, n] (c_i[n] e_n + sign z_i[p] e_p)` out of q'_i, so that

    query neuron n:  y_ij = (gain_i - 1) S_ij - x_i k'_j[n] - w_i k'_j[p],  x_i = scale gain_i q[i, n] c_i[n],
                                                                            w_i = scale gain_i q[i, n] sign z_i[p]

and a key neuron has the same with the parts of q and k exchanged, summed over the query heads that share the key.
gain = 1 without a norm on the queries (keys). With rows zeroed after the rotation, c = 1 and z = 0.
Soft-capped scores: S = cap(S_raw) and y = cap(S_raw + y_raw) - cap(S_raw), cap(x) = softcap tanh(x / softcap).

softmax ignores a part of y that is constant over j, floating point does not: y is centred under A first. Then
`A' - A = A (u - m) / (1 + m)` with u = exp(y) - 1 and m = sum_j A u keeps its digits for small y; where y is too large
for exp, softmax(log A + y) - A does.
"""

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped, probability_change, visible
from pymultiling.mathematics.qk_problem import QKProblem
from pymultiling.mathematics.rotation import rotation_pairs
from pymultiling.mathematics.sums import upcast


def qk_importance(problem: QKProblem) -> tuple[Tensor, Tensor]:
    q, k, q_plain, k_plain, cos, sin, valid, q_gain, k_gain, scale, window, softcap, interleaved = problem
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    partner, sign = rotation_pairs(size, 0 if cos is None else cos.shape[-1], interleaved, q.device)
    q_near, q_far = removed(q, q_plain, q_gain, cos, sin, partner, sign, scale)
    k_near, k_far = removed(k, k_plain, k_gain, cos, sin, partner, sign, scale)

    q_importance = q.new_zeros(batch, kv_heads, group, size)
    k_importance = q.new_zeros(batch, kv_heads, size)
    for b in range(batch):
        tokens = valid[b].nonzero().squeeze(1)
        hidden_keys = ~visible(tokens, tokens, window)
        for h in range(kv_heads):
            shared = slice(h * group, (h + 1) * group)
            qh, kh = q[b, shared][:, tokens], k[b, h][tokens]
            raw = scale * qh @ kh.T
            log_a = capped(raw, softcap).masked_fill(hidden_keys, -torch.inf).log_softmax(-1)
            for n in range(size):
                p = partner[n]
                for site, near, far, gain, other in (
                    ("q", q_near[b, shared], q_far[b, shared], q_gain, kh),
                    ("k", k_near[b, h], k_far[b, h], k_gain, qh),
                ):
                    x, w = near[..., tokens, n], far[..., tokens, n]
                    if site == "q":
                        y = -(x[..., None] * other[:, n] + w[..., None] * other[:, p])
                        grow = None if gain is None else upcast(gain)[b, shared][:, tokens, n, None]
                    else:
                        y = -(other[..., n, None] * x + other[..., p, None] * w)
                        grow = None if gain is None else upcast(gain)[b, h, tokens, n]
                    if grow is not None:
                        y = y + (grow - 1) * raw
                    if softcap is not None:
                        y = capped(raw + y, softcap) - capped(raw, softcap)
                    change = probability_change(log_a, y).square().sum((-2, -1))
                    if site == "q":
                        q_importance[b, h, :, n] = change
                    else:
                        k_importance[b, h, n] = change.sum()
    return q_importance.flatten(1), k_importance.flatten(1)


def removed(
    rotated: Tensor,
    plain: Tensor | None,
    gain: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    partner: Tensor,
    sign: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """What zeroing neuron n takes out of dimension n and out of its partner, times scale and gain; shaped as `rotated`."""
    if plain is None:
        return scale * rotated, torch.zeros_like(rotated)
    coefficient = scale * upcast(plain)
    if gain is not None:
        coefficient = coefficient * upcast(gain)
    if cos is None:
        return coefficient, torch.zeros_like(rotated)
    size, turned = rotated.shape[-1], cos.shape[-1]
    cosine = torch.nn.functional.pad(upcast(cos), (0, size - turned), value=1.0)[:, None]
    sine = torch.nn.functional.pad(upcast(sin), (0, size - turned))[:, None]
    return coefficient * cosine, coefficient * sign * sine[..., partner]
