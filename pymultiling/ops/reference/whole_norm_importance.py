"""whole_norm_importance: what zeroing a query (key) neuron does to the other heads under a norm over all heads (OLMo2).

Without neuron n the norm's mean square is smaller, so the other heads grow: query i by the factor 1 + t_in if n is a
query neuron, and key j by the factor 1 + t_jn if n is a key neuron. With attention scores S = scale q' k'^T,
A = softmax(S) and A' = softmax(S + y) the result is

    sum_ij (A'_ij - A_ij)^2,   query neuron n:  y_ij = t_in S_ij,   key neuron n:  y_ij = t_jn S_ij

The sum also runs over the query heads: for a query neuron over all but its own, for a key neuron over those that do not
read its key head. With a soft cap y = cap((1 + t) S) - cap(S). Where y is large, and with soft caps, y is computed for
every query, key and neuron, in blocks. Elsewhere there are cheaper ways. Let F_i = sum_j (A'_ij - A_ij)^2 for a query i
of one head.

* A query neuron scales all attention scores of a query by one number t. F_i(t) / t^2 is a smooth function of t: it is
  singular only where sum_j exp((1 + t) S_ij) = 0, which is at least pi / (max_j S - min_j S) away from the real line.
  It is computed at a few Chebyshev nodes for each query and head and interpolated for all neurons.
* For a key neuron exp is expanded in its power series, and sums over j become matrix products, (A S^p) (t^p). Let x be
  the y of the query's most probable key. Subtracting it keeps the digits of queries whose most probable key has nearly
  all the probability. Let u = exp(y - x) - 1. All sums over j with u or y - x run over the other keys, because both are
  0 for the most probable key. b0 is the sum over all keys.

      M_p = sum_j A (y - x)^p,   Q_p = sum_j A^2 (y - x)^p,   from sum_j A y^p and sum_j A^2 y^p
      m = sum_j A u = sum_p M_p / p!,  b1 = sum_j A^2 u = sum_p Q_p / p!,  b2 = sum_j A^2 u^2 = sum_p (2^p - 2) Q_p / p!
      F_i = (b2 - 2 m b1 + m^2 b0) / (1 + m)^2,   b0 = sum_j A^2

  The series of m and b1 end at an order P. Their terms of order P + 1 would change F_i only at order P + 2, because m
  and b1 only occur in products. b2 also gets its term of order P + 1. This term is cheap: sum_ij A^2 y^(P + 1) is
  needed only as one sum over all queries.

Without a soft cap the work depends on values that Python has to know: how many t of query neurons are too large, at
which orders each key neuron may be tried, and which results are accepted. To read a value waits for a GPU. So all
documents are read together: once before the first series, and once after each trial of the neurons that are left. All
else comes from shapes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pymultiling.mathematics.attention import capped_change, log_probabilities, probability_change, visible
from pymultiling.mathematics.sums import upcast
from pymultiling.runtime.device_copies import to_device

BLOCK_NUMBERS = 2**20  # most numbers in a block
ROWS = 64  # queries at a time
NODE_SPAN = 2.0  # largest t (max S - min S) for which nodes are used
POWERS = (1, 2, 3, 5, 7, 11)  # the orders P that are tried, one after the other
# Relative errors: that of the interpolation, and the largest bounds of the omitted terms with which a series is tried,
# and with which its result is accepted. (The bound is ten times the true error.)
NODE_ERROR = {torch.float32: 1e-5, torch.float64: 1e-9}
TRIED_ERROR = {torch.float32: 1e-4, torch.float64: 1e-7}
ACCEPTED_ERROR = {torch.float32: 6e-4, torch.float64: 6e-7}
# Bound of y - x up to which a series is tried. A larger change may lift a key whose A^2 is below the range of float32.
LARGEST_CHANGE = 10.0

# Called with the index of a query head, for a document with l valid tokens. Returns the head's attention scores before
# the cap (l, l), 0 where a key is hidden, and log A (l, l), -inf where a key is hidden.
HeadScores: TypeAlias = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Document:
    """What the importance of a document's neurons depends on.

    Attributes:
        index: of the document in the batch.
        head_scores: returns the attention scores of a head.
        heads: H, the number of query heads.
        kv_heads: K, the number of key heads.
        q_rescale: (l, H d), t of every query neuron.
        k_rescale: (l, K d), t of every key neuron.
    """

    index: int
    head_scores: HeadScores
    heads: int
    kv_heads: int
    q_rescale: Tensor
    k_rescale: Tensor


def whole_norm_importance(
    q: Tensor,
    k: Tensor,
    q_rescale: Tensor,
    k_rescale: Tensor,
    valid: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    q_own: Tensor | None = None,
    k_own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes what zeroing a query or key neuron does to the other heads, under a norm over all heads.

    Args:
        q: (B, H, l, d), the normed and rotated queries.
        k: (B, K, l, d), the normed and rotated keys. K divides H.
        q_rescale: (B, l, H d), t of every query neuron: the rest of the row grows by 1 + t without the neuron.
        k_rescale: (B, l, K d), t of every key neuron, as for the queries.
        valid: (B, l) bool, False for padding.
        scale: factor of the attention scores.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
        softcap: soft cap of the attention scores. None: they are not capped.
        q_own: (B, H d), is added to the result of the query neurons. None: nothing is.
        k_own: (B, K d), is added to the result of the key neurons. None: nothing is.

    Returns:
        (B, H d) for the query neurons and (B, K d) for the key neurons, in float32, or in float64 for float64 input.
    """
    q, k = upcast(q), upcast(k)
    batch, heads, _, size = q.shape
    kv_heads = k.shape[1]
    q_importance, k_importance = q.new_zeros(batch, heads * size), q.new_zeros(batch, kv_heads * size)
    q, k = (x.masked_fill(~valid[:, None, :, None], 0) for x in (q, k))
    q_rescale, k_rescale = (t.to(q.dtype).masked_fill(~valid[..., None], 0) for t in (q_rescale, k_rescale))
    documents = []
    for b in range(batch):
        tokens = _tokens_of(valid[b])
        if len(tokens):
            hidden_keys = _hidden_keys(tokens, valid[b, tokens], window)
            head_scores = functools.partial(_head_scores, q, k, b, tokens, hidden_keys, scale, softcap)
            rescale = q_rescale[b, tokens], k_rescale[b, tokens]
            documents.append(_Document(b, head_scores, heads, kv_heads, *rescale))
    if softcap is None:
        _add_uncapped(documents, q_importance, k_importance)
    else:
        for document in documents:
            every_t, every_neuron = torch.ones_like(document.q_rescale, dtype=torch.bool), torch.arange(kv_heads * size)
            q_importance[document.index] = _sum_queries(document, every_t, every_t.numel(), softcap)
            k_importance[document.index] = _sum_key_by_key(document, every_neuron, softcap)
    for importance, own in ((q_importance, q_own), (k_importance, k_own)):
        if own is not None:
            importance += own
    return q_importance, k_importance


def _add_uncapped(documents: Sequence[_Document], q_importance: Tensor, k_importance: Tensor) -> None:
    """Adds the importance of all documents' neurons to tensors (B, H d) and (B, K d). There is no soft cap."""
    if not documents:
        return
    far, counts, omitted, is_small = [], [], [], []
    for document in documents:
        near_importance, is_far = _near_queries(document)
        q_importance[document.index] += near_importance
        far.append(is_far)
        counts.append(is_far.sum()[None])
        bounds, leading = _omitted_terms(document)
        omitted.append(bounds)
        is_small.append((bounds <= TRIED_ERROR[bounds.dtype] * leading).flatten())
    # The only values that are read before the first series.
    numbers = torch.cat([torch.stack(counts), torch.stack(is_small)], 1).cpu()
    for document, is_far, count in zip(documents, far, numbers[:, 0].tolist()):
        if count:
            q_importance[document.index] += _sum_queries(document, is_far, count, None)
    is_tried = torch.unflatten(numbers[:, 1:].bool(), 1, (len(POWERS), -1))
    for document, values in zip(documents, _key_importance(documents, omitted, is_tried)):
        k_importance[document.index] += values


def _tokens_of(valid: Tensor) -> Tensor:
    """Returns the positions of a document with which to compute, (tokens,) int64: the valid ones, on a GPU all.

    To find those that are valid would wait for the GPU. Padding contributes 0: see `_hidden_keys`.

    valid: (l,) bool.
    """
    return valid.nonzero().squeeze(1) if valid.is_cpu else torch.arange(len(valid), device=valid.device)


def _hidden_keys(tokens: Tensor, is_valid: Tensor, window: int | None) -> Tensor:
    """Returns a mask (tokens, tokens), bool: True where a query does not see a key.

    Padding sees itself alone, whose attention probability is 1 with and without any neuron.

    Args:
        tokens: (tokens,) int64, positions.
        is_valid: (tokens,) bool, False for padding.
        window: number of positions that a query sees. None: all up to its own.
    """
    sees = visible(tokens, tokens, window) & is_valid & is_valid[:, None]
    return ~(sees | (tokens == tokens[:, None]))


def _head_scores(
    q: Tensor, k: Tensor, b: int, tokens: Tensor, hidden_keys: Tensor, scale: float, softcap: float | None, h: int
) -> tuple[Tensor, Tensor]:
    """Returns the attention scores of query head h of document b, and log A, as `HeadScores` does.

    Args:
        q: (B, H, l, d), queries.
        k: (B, K, l, d), keys.
        b: index of the document.
        tokens: (tokens,) int64, the document's positions with which to compute.
        hidden_keys: (tokens, tokens) bool, True where a query does not see a key.
        scale: factor of the attention scores.
        softcap: soft cap of the attention scores. None: they are not capped.
        h: index of the query head.
    """
    scores = scale * q[b, h, tokens] @ k[b, h * k.shape[1] // q.shape[1], tokens].T
    log_a = log_probabilities(scores, ~hidden_keys, softcap)
    return scores.masked_fill(hidden_keys, 0), log_a


def _near_queries(document: _Document) -> tuple[Tensor, Tensor]:
    """Returns what small t contribute to the importance of query neurons, (H d,), and where t is too large, (l, H d).

    There is no soft cap.
    """
    t, heads = document.q_rescale, document.heads
    spread = torch.stack([_range(_centre(*document.head_scores(h))) for h in range(heads)]).amax(0)
    is_near = t * spread[:, None] <= NODE_SPAN
    far_end = torch.where(is_near, t, 0).amax(1).clamp(min=1e-12)
    # A GPU's longest reach is not read, because the host would wait for it. is_near allows NODE_SPAN.
    reach = float((far_end * spread).max()) if t.is_cpu else NODE_SPAN
    nodes = _node_count(reach, NODE_ERROR[t.dtype])
    by_query = _interpolate(document.head_scores, heads, t, far_end, nodes, _owner(t, heads))
    return torch.where(is_near, by_query, 0).sum(0), ~is_near


def _owner(t: Tensor, heads: int) -> Tensor:
    """Returns the head of each neuron, (N,) int64. t: (l, N). heads: the number of heads."""
    return torch.arange(t.shape[1], device=t.device) * heads // t.shape[1]


def _sum_queries(document: _Document, is_far: Tensor, count: int, softcap: float | None) -> Tensor:
    """Returns what some t contribute to the importance of query neurons, from y of every query and key, (H d,).

    Args:
        document: the document.
        is_far: (l, H d) bool, for which t.
        count: for how many. Without it the host would wait for a GPU to count.
        softcap: soft cap of the attention scores. None: they are not capped.
    """
    t = document.q_rescale
    owner, total = _owner(t, document.heads), t.new_zeros(t.shape[1])
    rows, neurons = is_far.nonzero_static(size=count).unbind(1)
    for h in range(document.heads):
        scores, log_a = document.head_scores(h)
        base = scores if softcap is not None else _centre(scores, log_a)
        for block in torch.split(torch.arange(count, device=t.device), max(1, BLOCK_NUMBERS // t.shape[0])):
            i, n = rows[block], neurons[block]
            y = _rescaling_change(base[i], t[i, n, None], softcap)
            change = probability_change(log_a[i], y).square().sum(-1)
            total.index_add_(0, n, torch.where(owner[n] == h, 0, change))
    return total


def _interpolate(head_scores: HeadScores, heads: int, t: Tensor, far_end: Tensor, nodes: int, owner: Tensor) -> Tensor:
    """Returns the contribution of each query to the importance of each query neuron, (l, H d), by interpolation.

    F / t^2 of every query and head is computed at Chebyshev nodes in [0, far_end], interpolated at t, and multiplied by
    t^2.

    Args:
        head_scores: returns the attention scores of a head.
        heads: H, the number of query heads.
        t: (l, H d), t of every query neuron. Where it is above far_end, the result is wrong.
        far_end: (l,), the largest t of each query.
        nodes: number of Chebyshev nodes.
        owner: (H d,) int64, the head of each neuron.
    """
    angle = math.pi * (torch.arange(nodes, device=t.device, dtype=t.dtype) + 0.5) / nodes
    cosines = [math.cos(math.pi * (node + 0.5) / nodes) for node in range(nodes)]
    values = t.new_empty(nodes, heads, t.shape[0])
    for h in range(heads):
        scores, log_a = head_scores(h)
        a, centred = log_a.exp(), _centre(scores, log_a)
        for node, x in enumerate(cosines):
            node_t = far_end[:, None] * (x + 1) / 2
            u = torch.expm1(node_t * centred) / node_t
            m = (a * u).sum(-1, keepdim=True)
            values[node, h] = ((a * (u - m)).square_().sum(-1, keepdim=True) / (1 + node_t * m).square()).squeeze(1)
    order = torch.arange(nodes, device=t.device, dtype=t.dtype)
    transform = torch.cos(order[:, None] * angle) * torch.where(order > 0, 2, 1)[:, None] / nodes
    is_other = 1 - torch.eye(heads, dtype=t.dtype, device=t.device)
    coefficients = torch.einsum("pn,gh,nhl->plg", transform, is_other, values)  # summed over all heads but g
    angles = (2 * t / far_end[:, None] - 1).clamp(-1, 1).acos()
    result = torch.zeros_like(t)
    for p in range(nodes):
        result.addcmul_(coefficients[p][:, owner], torch.cos(p * angles))
    return result * t.square()


def _node_count(reach: float, tolerance: float) -> int:
    """Returns the number of nodes that interpolate F / t^2 on [0, reach] to a relative error of `tolerance`.

    The function must be analytic within a distance of pi from the real line: `reach` is t times max S - min S.
    """
    to_edge = 2 * math.pi / max(reach, 1e-6)
    return 2 + math.ceil(-math.log(tolerance) / math.asinh(to_edge)) if math.isfinite(reach) else 2


def _omitted_terms(document: _Document) -> tuple[Tensor, Tensor]:
    """Returns upper bounds of the terms that the series omit, (len(POWERS), K d), and of their first term, (K d,).

    All terms from order p on are at most exp(2 max(y - x)) times the term of order p. Infinite: no series is tried.
    """
    t = document.k_rescale
    moments, largest = _score_moments(document.head_scores, document.heads, t, max(POWERS) + 2)
    change = 2 * (t * largest[:, None]).amax(0)
    bounds = torch.stack([_omitted_bound(moments, t, powers + 2) for powers in POWERS]) * (2 * change).exp()
    return bounds.masked_fill(change > LARGEST_CHANGE, torch.inf), _omitted_bound(moments, t, 2)


def _key_importance(documents: Sequence[_Document], omitted: Sequence[Tensor], is_tried: Tensor) -> list[Tensor]:
    """Returns the importance of the key neurons of each document, (K d,). There is no soft cap.

    Args:
        documents: the documents.
        omitted: upper bounds of the terms that the series omit, (len(POWERS), K d) for each document.
        is_tried: (documents, len(POWERS), K d) bool, on the host: the orders at which a neuron is tried, in turn, until
            a result is accepted.
    """
    totals = [document.k_rescale.new_zeros(document.k_rescale.shape[1]) for document in documents]
    is_open = torch.ones_like(is_tried[:, 0])  # no result has been accepted yet
    for turn in range(1, len(POWERS) + 1):
        is_next = is_tried & (is_tried.cumsum(1) == turn) & is_open[:, None]
        if not is_next.any():
            break
        is_rejected = []
        for document, total, bounds, by_order in zip(documents, totals, omitted, is_next):
            rejected = torch.zeros_like(total, dtype=torch.bool)
            for powers, bound, mask in zip(POWERS, bounds, by_order):
                if mask.any():
                    on_host = mask.nonzero().squeeze(1)
                    tried = to_device(on_host, total.device)
                    result, rounding = _sum_series(document, on_host, powers)
                    total[tried] = result
                    rejected[tried] = rounding + bound[tried] > ACCEPTED_ERROR[result.dtype] * result
            is_rejected.append(rejected)
        is_open = torch.where(is_next.any(1), torch.stack(is_rejected).cpu(), is_open)
    for document, total, mask in zip(documents, totals, is_open):
        if mask.any():
            neurons = mask.nonzero().squeeze(1)
            total[to_device(neurons, total.device)] = _sum_key_by_key(document, neurons, None)
    return totals


def _score_moments(head_scores: HeadScores, heads: int, t: Tensor, orders: int) -> tuple[Tensor, Tensor]:
    """Returns sum_i A_ij^2 |S_ij|^p of every key j for p = 0 ... orders, (orders + 1, l), and the largest |S_ij|, (l,).

    The sums are over the query heads too, and so is the maximum. Where key j is the most probable key of query i,
    the sum of A^2 over the query's other keys replaces A_ij^2.

    Args:
        head_scores: returns the attention scores of a head.
        heads: H, the number of query heads.
        t: (l, N), only for its length, dtype and device.
        orders: the largest p.
    """
    moments, largest = t.new_zeros(orders + 1, t.shape[0]), t.new_zeros(t.shape[0])
    for h in range(heads):
        scores, log_a = head_scores(h)
        largest = torch.maximum(largest, scores.abs().amax(0))
        _, rest, top = _without_top(log_a)
        squares, top_squares = rest.square(), rest.square().sum(-1)
        top_scores = scores.gather(1, top).squeeze(1).abs()
        for moment in moments:
            moment.add_(squares.sum(0)).index_add_(0, top.squeeze(1), top_squares)
            squares, top_squares = squares * scores.abs(), top_squares * top_scores
    return moments, largest


def _omitted_bound(moments: Tensor, t: Tensor, order: int) -> Tensor:
    """Returns an upper bound of the term of b2 of order p = `order`, summed over queries, for every key neuron, (N,).

    It follows from |y - x|^p <= 2^(p - 1) (|y|^p + |x|^p).

    Args:
        moments: (orders + 1, l), from `_score_moments`.
        t: (l, N), t of the key neurons.
        order: p.
    """
    return _coefficient(order) * 2.0 ** (order - 1) * (moments[order] @ t**order)


def _coefficient(order: int) -> float:
    """Returns the coefficient of y^order in (exp(y) - 1)^2."""
    return (2.0**order - 2) / math.factorial(order)


def _sum_series(document: _Document, neurons: Tensor, powers: int) -> tuple[Tensor, Tensor]:
    """Returns the importance of key neurons from the power series, and an estimate of its rounding error, (N,) each.

    Args:
        document: the document.
        neurons: (N,) int64, indices of the key neurons, on the host.
        powers: P, the order at which the series of m and b1 end.
    """
    heads, kv_heads = document.heads, document.kv_heads
    t = document.k_rescale[:, to_device(neurons, document.k_rescale.device)]
    owner = to_device(_key_head(document, neurons), t.device)
    total, rounding = t.new_zeros(t.shape[1]), t.new_zeros(t.shape[1])
    t_powers = [t**p for p in range(1, powers + 2)]
    for h in range(heads):
        is_other = (owner != h * kv_heads // heads).to(t.dtype)
        scores, log_a = document.head_scores(h)
        a, rest, top = _without_top(log_a)
        b0, top_scores = a.square().sum(-1, keepdim=True), scores.gather(1, top)
        for rows in _blocks_of_rows(t.shape[0]):
            keys = slice(0, rows.stop)
            x = t[top[rows, 0]] * top_scores[rows]
            weights = torch.stack([rest[rows, keys], rest[rows, keys].square()])
            moments = [weights.sum(-1, keepdim=True)]  # moments[p]: sums of A y^p and of A^2 y^p, (2, rows, N)
            for power in t_powers[:-1]:
                weights = weights * scores[rows, keys]
                moments.append(weights @ power[keys])
            # sum_j A^2 y^(P + 1) is in `last`, summed over the queries. So moments[P + 1] starts with 0.
            moments.append(torch.zeros_like(moments[-1]))
            last = (weights[1] * scores[rows, keys]).sum(0) @ t_powers[-1][keys]
            rounding += is_other * (moments[0][1] * x.square()).sum(0) * torch.finfo(t.dtype).eps
            for factors in range(powers + 1):  # y^p becomes (y - x) y^(p - 1), then (y - x)^2 y^(p - 2) ...
                for p in range(powers + 1, factors, -1):
                    moments[p].addcmul_(moments[p - 1], x, value=-1)
            m, b1, b2 = (torch.zeros_like(x) for _ in range(3))
            for p in range(1, powers + 1):
                a_term, square_term = moments[p] / math.factorial(p)
                m, b1, b2 = m + a_term, b1 + square_term, b2 + (2.0**p - 2) * square_term
            change = ((b2 - 2 * m * b1 + m.square() * b0[rows]) / (1 + m).square()).sum(0)
            total += is_other * (change + _coefficient(powers + 1) * (last + moments[-1][1].sum(0)))
    return total, rounding


def _without_top(log_a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns A, A with each query's most probable key set to 0, and the index of that key, (l, 1)."""
    a = log_a.exp()
    top = a.argmax(-1, keepdim=True)
    return a, a.scatter(1, top, 0), top


def _key_head(document: _Document, neurons: Tensor) -> Tensor:
    """Returns the key head of each key neuron, (N,) int64. neurons: (N,) int64, indices."""
    return neurons * document.kv_heads // document.k_rescale.shape[1]


def _sum_key_by_key(document: _Document, neurons: Tensor, softcap: float | None) -> Tensor:
    """Returns the importance of key neurons from y of every query and key, (N,).

    Args:
        document: the document.
        neurons: (N,) int64, indices of the key neurons, on the host.
        softcap: soft cap of the attention scores. None: they are not capped.
    """
    t = document.k_rescale[:, to_device(neurons, document.k_rescale.device)]
    owner, total = _key_head(document, neurons), t.new_zeros(t.shape[1])
    for h in range(document.heads):
        scores, log_a = document.head_scores(h)
        others = (owner != h * document.kv_heads // document.heads).nonzero().squeeze(1)
        for block in torch.split(to_device(others, t.device), max(1, BLOCK_NUMBERS // (ROWS * t.shape[0]))):
            for rows in _blocks_of_rows(t.shape[0]):
                keys = slice(0, rows.stop)
                y = _rescaling_change(scores[rows, None, keys], t[keys, block].T, softcap)
                total[block] += probability_change(log_a[rows, None, keys], y).square().sum((0, 2))
    return total


def _blocks_of_rows(length: int) -> list[slice]:
    """Returns the queries of a document, ROWS at a time."""
    return [slice(start, min(start + ROWS, length)) for start in range(0, length, ROWS)]


def _rescaling_change(scores: Tensor, t: Tensor, softcap: float | None) -> Tensor:
    """Returns y, the change of the capped attention scores when the attention scores grow by the factor 1 + t."""
    return capped_change(scores, t * scores, softcap)


def _centre(scores: Tensor, log_a: Tensor) -> Tensor:
    """Subtracts each query's mean attention score under A, and returns 0 where a key is hidden.

    Without a soft cap A' does not depend on what all scores of a query have in common, but t times it costs digits. A
    hidden key's 0 lies between the smallest and the largest centred score, so that it does not widen their range.
    """
    centred = scores - (log_a.exp() * scores).sum(-1, keepdim=True)
    return centred.masked_fill(log_a == -torch.inf, 0)


def _range(x: Tensor) -> Tensor:
    """Returns the largest minus the smallest value along the last dimension."""
    return x.amax(-1) - x.amin(-1)
