"""whole_norm_importance: what zeroing a query (key) neuron does to the other heads under a norm over all heads (OLMo2).

Without neuron n the norm's mean square is smaller, so that every other head's query row i (key row j) grows by 1 + t_in
(1 + t_jn). With S = scale q' k'^T, A = softmax(S) and A' = softmax(S + y) the importance is

    sum_ij (A'_ij - A_ij)^2,   query neuron n:  y_ij = t_in S_ij,   key neuron n:  y_ij = t_jn S_ij

over the query heads that are not the neuron's own (do not read its key head). Soft-capped: y = cap((1 + t) S) - cap(S).
Where y is large, and with soft caps, it is laid out for every row, key and neuron, in blocks. Elsewhere it need not be:

* A query neuron moves a row by one number, and F_i(t) / t^2, F_i(t) = sum_j (A'_ij - A_ij)^2, is smooth in t: it is
  singular only where sum_j exp((1 + t) S_ij) = 0, no nearer to the real line than pi / (max_j S - min_j S). A few
  Chebyshev nodes a row and head serve all neurons.
* For a key neuron exp is its power series, and sums over j become products of matrices, (A S^p) (t^p). With x the y of
  the row's most probable key, which keeps the digits of rows where that has all the probability, u = exp(y - x) - 1 and
  sums over the other keys,

      M_p = sum_j A (y - x)^p,   Q_p = sum_j A^2 (y - x)^p,   from sum_j A y^p and sum_j A^2 y^p
      m = sum_j A u = sum_p M_p / p!,  b1 = sum_j A^2 u = sum_p Q_p / p!,  b2 = sum_j A^2 u^2 = sum_p (2^p - 2) Q_p / p!
      F_i = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2,   b0 = sum_j A^2

  The first order left out of m and b1 matters in b2 alone, where sum_ij A^2 y^p is one sum over the rows.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped, probability_change, visible
from pymultiling.mathematics.sums import upcast

NUMBERS = 2**20  # of a block
ROWS = 64  # queries worked on at a time
SPAN = 2.0  # t (max S - min S) that nodes reach
POWERS = (1, 2, 3, 5, 7, 11)
# Relative errors: of nodes, bound of a series that is tried, and bound of one that is taken (it is ten times too high).
NODES = {torch.float32: 1e-5, torch.float64: 1e-9}
TRIED = {torch.float32: 1e-4, torch.float64: 1e-7}
TAKEN = {torch.float32: 6e-4, torch.float64: 6e-7}

Head = Callable[[int], tuple[Tensor, Tensor]]


def whole_norm_importance(
    q: Tensor,
    k: Tensor,
    q_rescale: Tensor,
    k_rescale: Tensor,
    valid: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """q (B, H, l, d), k (B, K, l, d), rescale t (B, l, heads d), valid (B, l) -> (B, H d) and (B, K d)."""
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    kv_heads = k.shape[1]
    q_extra, k_extra = q.new_zeros(batch, heads * size), q.new_zeros(batch, kv_heads * size)
    for b in range(batch):
        tokens = valid[b].nonzero().squeeze(1)
        seen = visible(tokens, tokens, window)

        def head(h: int) -> tuple[Tensor, Tensor]:
            """(l, l) scores before the cap, 0 where a key is hidden, and log A."""
            scores = scale * q[b, h, tokens] @ k[b, h * kv_heads // heads, tokens].T
            return scores.masked_fill(~seen, 0), capped(scores, softcap).masked_fill(~seen, -torch.inf).log_softmax(-1)

        if len(tokens):
            q_extra[b] = _of_queries(head, heads, q_rescale[b, tokens].to(q.dtype), softcap)
            k_extra[b] = _of_keys(head, heads, kv_heads, k_rescale[b, tokens].to(q.dtype), softcap)
    return q_extra, k_extra


def _of_queries(head: Head, heads: int, t: Tensor, softcap: float | None) -> Tensor:
    """t (l, H d) -> (H d,)."""
    owner = torch.arange(t.shape[1], device=t.device) * heads // t.shape[1]
    total = t.new_zeros(t.shape[1])
    near = torch.zeros_like(t, dtype=torch.bool)
    if softcap is None:
        spread = torch.stack([_range(_centred(*head(h))) for h in range(heads)]).amax(0)
        near = t * spread[:, None] <= SPAN
        far_end = torch.where(near, t, 0).amax(1).clamp(min=1e-12)
        nodes = _nodes(float((far_end * spread).max()), NODES[t.dtype])
        total += torch.where(near, _at_nodes(head, heads, t, far_end, nodes, owner), 0).sum(0)
    rows, neurons = (~near).nonzero(as_tuple=True)
    for h in range(heads) if len(rows) else ():
        scores, log_a = head(h)
        raw = scores if softcap is not None else _centred(scores, log_a)
        for part in torch.arange(len(rows), device=t.device).split(max(1, NUMBERS // t.shape[0])):
            i, n = rows[part], neurons[part]
            change = probability_change(log_a[i], _moved(raw[i], t[i, n, None], softcap)).square().sum(-1)
            total.index_add_(0, n, torch.where(owner[n] == h, 0, change))
    return total


def _at_nodes(head: Head, heads: int, t: Tensor, far_end: Tensor, nodes: int, owner: Tensor) -> Tensor:
    """(l, H d), each row's share: F / t^2 of every row and head, from Chebyshev nodes in [0, far_end], times t^2."""
    angle = math.pi * (torch.arange(nodes, device=t.device, dtype=t.dtype) + 0.5) / nodes
    values = t.new_empty(nodes, heads, t.shape[0])
    for h in range(heads):
        scores, log_a = head(h)
        a, centred = log_a.exp(), _centred(scores, log_a)
        for node, x in enumerate(angle.cos().tolist()):
            at = far_end[:, None] * (x + 1) / 2
            u = torch.expm1(at * centred) / at
            m = (a * u).sum(-1, keepdim=True)
            values[node, h] = ((a * (u - m)).square_().sum(-1, keepdim=True) / (1 + at * m).square()).squeeze(1)
    order = torch.arange(nodes, device=t.device, dtype=t.dtype)
    transform = torch.cos(order[:, None] * angle) * torch.where(order > 0, 2, 1)[:, None] / nodes
    others = 1 - torch.eye(heads, dtype=t.dtype, device=t.device)
    coefficients = torch.einsum("pn,gh,nhl->plg", transform, others, values)  # of all heads but one
    angles = (2 * t / far_end[:, None] - 1).clamp(-1, 1).acos()
    found = torch.zeros_like(t)
    for p in range(nodes):
        found.addcmul_(coefficients[p][:, owner], torch.cos(p * angles))
    return found * t.square()


def _nodes(reach: float, tolerance: float) -> int:
    """Nodes on [0, reach] for a function that is analytic up to pi off the real line."""
    to_edge = 2 * math.pi / max(reach, 1e-6)
    return 2 + math.ceil(-math.log(tolerance) / math.asinh(to_edge)) if math.isfinite(reach) else 2


def _of_keys(head: Head, heads: int, kv_heads: int, t: Tensor, softcap: float | None) -> Tensor:
    """t (l, K d) -> (K d,)."""
    owner = torch.arange(t.shape[1], device=t.device) * kv_heads // t.shape[1]
    total = t.new_zeros(t.shape[1])
    left = torch.ones_like(total, dtype=torch.bool)
    if softcap is None:
        sizes = _sizes(head, heads, max(POWERS) + 2)
        for powers in POWERS:
            omitted = _omitted(sizes, t, powers + 2)
            chosen = (left & (omitted <= TRIED[t.dtype] * _omitted(sizes, t, 2))).nonzero().squeeze(1)
            if len(chosen):
                total[chosen], rounding = _by_series(head, heads, kv_heads, t[:, chosen], owner[chosen], powers)
                left[chosen] = rounding + omitted[chosen] > TAKEN[t.dtype] * total[chosen]
    chosen = left.nonzero().squeeze(1)
    if len(chosen):
        total[chosen] = _key_by_key(head, heads, kv_heads, t[:, chosen], owner[chosen], softcap)
    return total


def _sizes(head: Head, heads: int, orders: int) -> Tensor:
    """(orders + 1, l): sum_i A^2 |S|^p of every key, a row's most probable one with the A^2 of the row's others."""
    sizes = None
    for h in range(heads):
        scores, log_a = head(h)
        _, rest, top = _without_top(log_a)
        squares, of_top = rest.square(), rest.square().sum(-1)
        top_scores = scores.gather(1, top).squeeze(1).abs()
        sizes = scores.new_zeros(orders + 1, len(scores)) if sizes is None else sizes
        for size in sizes:
            size.add_(squares.sum(0)).index_add_(0, top.squeeze(1), of_top)
            squares, of_top = squares * scores.abs(), of_top * top_scores
    return sizes


def _omitted(sizes: Tensor, t: Tensor, order: int) -> Tensor:
    """(N,), what b2's term of an order is at most, from |y - x|^p <= 2^(p - 1) (|y|^p + |x|^p)."""
    return _coefficient(order) * 2 ** (order - 1) * (sizes[order] @ t**order)


def _coefficient(order: int) -> float:
    """Of y^p in (exp(y) - 1)^2."""
    return (2**order - 2) / math.factorial(order)


def _by_series(head: Head, heads: int, kv_heads: int, t: Tensor, owner: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    """t (l, N) -> (N,), and its error of rounding."""
    total, rounding = t.new_zeros(t.shape[1]), t.new_zeros(t.shape[1])
    t_powers = [t**p for p in range(1, powers + 2)]
    for h in range(heads):
        others = (owner != h * kv_heads // heads).to(t.dtype)
        scores, log_a = head(h)
        a, rest, top = _without_top(log_a)
        b0, top_scores = a.square().sum(-1, keepdim=True), scores.gather(1, top)
        for rows in torch.arange(t.shape[0], device=t.device).split(ROWS):
            keys = slice(0, int(rows[-1]) + 1)
            x = t[top[rows, 0]] * top_scores[rows]
            weights = torch.stack([rest[rows, keys], rest[rows, keys].square()])
            moments = [weights.sum(-1, keepdim=True)]  # of A and of A^2
            for power in t_powers[:-1]:
                weights = weights * scores[rows, keys]
                moments.append(weights @ power[keys])
            moments.append(torch.zeros_like(moments[-1]))
            last = (weights[1] * scores[rows, keys]).sum(0) @ t_powers[-1][keys]
            rounding += others * (moments[0][1] * x.square()).sum(0) * torch.finfo(t.dtype).eps
            for done in range(powers + 1):  # from y^p to (y - x) y^(p - 1), (y - x)^2 y^(p - 2) ...
                for p in range(powers + 1, done, -1):
                    moments[p].addcmul_(moments[p - 1], x, value=-1)
            m, b1, b2 = 0, 0, 0
            for p in range(1, powers + 1):
                of_a, of_squares = moments[p] / math.factorial(p)
                m, b1, b2 = m + of_a, b1 + of_squares, b2 + (2**p - 2) * of_squares
            change = ((b2 - 2 * m * b1 + m.square() * b0[rows]) / (1 + m).square()).sum(0)
            total += others * (change + _coefficient(powers + 1) * (last + moments[-1][1].sum(0)))
    return total, rounding


def _without_top(log_a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, A without each row's most probable key, and which key that is, (l, 1)."""
    a = log_a.exp()
    top = a.argmax(-1, keepdim=True)
    return a, a.scatter(1, top, 0), top


def _key_by_key(head: Head, heads: int, kv_heads: int, t: Tensor, owner: Tensor, softcap: float | None) -> Tensor:
    """t (l, N) -> (N,)."""
    total = t.new_zeros(t.shape[1])
    for h in range(heads):
        scores, log_a = head(h)
        neurons = (owner != h * kv_heads // heads).nonzero().squeeze(1)
        for part in neurons.split(max(1, NUMBERS // (ROWS * t.shape[0]))):
            for rows in torch.arange(t.shape[0], device=t.device).split(ROWS):
                keys = slice(0, int(rows[-1]) + 1)
                y = _moved(scores[rows, None, keys], t[keys, part].T, softcap)
                total[part] += probability_change(log_a[rows, None, keys], y).square().sum((0, 2))
    return total


def _moved(scores: Tensor, t: Tensor, softcap: float | None) -> Tensor:
    y = t * scores
    return y if softcap is None else capped(scores + y, softcap) - capped(scores, softcap)


def _centred(scores: Tensor, log_a: Tensor) -> Tensor:
    """Scores minus each row's mean under A, 0 where a key is hidden."""
    centred = scores - (log_a.exp() * scores).sum(-1, keepdim=True)
    return centred.masked_fill(log_a == -torch.inf, 0)


def _range(x: Tensor) -> Tensor:
    return x.amax(-1) - x.amin(-1)
