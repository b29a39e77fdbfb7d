"""normed_value_energy: importance of value neurons whose values pass an RMS norm over the head (Gemma 3n, Gemma 4).

The norm turns the values x of a head into u = x / r, r^2 = mean(x^2) + eps. Without neuron i, r becomes r', so that the
whole head changes. With g[t, i] = r[t] / r'[t] - 1, the growth of the other values,

    u'[t] - u[t] = g[t, i] u[t] - (1 + g[t, i]) u[t, i] e_i

and the output of the attention changes in query s, with the query heads h that share the neuron's key head, by

    o[i, s] = sum_t g[t, i] z[t, s] - sum_h m[i, s, h] W_h[:, i]
    z[t, s] = sum_h A_h[s, t] W_h u[t],    m[i, s, h] = sum_t A_h[s, t] (1 + g[t, i]) u[t, i]

All neurons share z, so that the first sum is one matrix product for all of them. Blocks of queries and of outputs keep
z and o small. What is summed over outputs are the products that `normed_change` needs where o passes a norm, or |o|^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.attention import log_probabilities, visible
from pymultiling.mathematics.normed_change import normed_change
from pymultiling.mathematics.sums import upcast

BLOCK_NUMBERS = 2**22  # most numbers of z, of o and of W u in a block, where one query and one output do not have more
OUTPUTS = 256  # most outputs in a block
ROWS = 64  # most queries in a block


def normed_value_energy(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    growth: Tensor,
    weight: Tensor,
    valid: Tensor,
    counted: Tensor | None,
    factors: Tensor | None,
    output: Tensor | None,
    multiplier: Tensor | None,
    eps: float,
    scale: float,
    window: int | None,
    softcap: float | None,
    causal: bool,
) -> Tensor:
    """Computes the squared change of the attention's output, or of its norm, without each value neuron.

    Args:
        q: (B, H, l, c), the queries as attention multiplies them.
        k: (B, K, l, c), the keys as attention multiplies them. K divides H.
        v: (B, K, l, d), u: the values behind their norm.
        growth: (B, K, l, d), g.
        weight: (D, H d), W of the output projection.
        valid: (B, l) bool, False for padding.
        counted: (B, l) bool, the queries that are summed over, none of which is padding. None: all but padding.
        factors: (B, H d), by which the inputs of the projection are multiplied. None: they are not.
        output: (B, l, D), f: the outputs of the projection, bias included. None: no norm follows.
        multiplier: (D,), by which the norm that follows multiplies. None: no norm follows.
        eps: eps of the norm that follows.
        scale: factor of the attention scores.
        window: number of positions that a query sees. None: it sees all up to its own, or all without `causal`.
        softcap: soft cap of the attention scores. None: they are not capped.
        causal: whether a query sees no keys after its own.

    Returns:
        (B, K d), in float32, or in float64 for float64 input.
    """
    q, k, v, growth, weight = (upcast(x) for x in (q, k, v, growth, weight))
    (batch, kv_heads, _, size), width = v.shape, weight.shape[0]
    w = torch.unflatten(weight.T, 0, (kv_heads, -1, size))  # (K, G, d, D)
    squares = w.new_ones(width, 1)
    if multiplier is not None:
        squares = torch.cat([squares, upcast(multiplier)[:, None].square()], 1)
    energy = v.new_zeros(batch, kv_heads * size)
    for b in range(batch):
        # To find the tokens that are no padding would wait for a GPU, which computes with all of them.
        tokens = valid[b].nonzero().squeeze(1) if valid.is_cpu else torch.arange(valid.shape[1], device=valid.device)
        if not len(tokens):
            continue
        hidden = ~valid[b, tokens]
        queries, keys, values, grown = (x[b][:, tokens].masked_fill(hidden[:, None], 0) for x in (q, k, v, growth))
        f = None if output is None else upcast(output[b, tokens])
        own_w = w if factors is None else w * upcast(factors[b]).view(kv_heads, -1, size, 1)
        dots, sums = _products(
            queries, keys, values, grown, own_w, squares, f, tokens, hidden, scale, window, softcap, causal
        )
        if f is None:
            change = sums[..., 0]
        else:
            r2, gf_gf = f.square().mean(1) + eps, f.square() @ squares[:, 1]
            (v_f, v_ggf), (v_v, gv_gv) = (-dots).unbind(-1), sums.unbind(-1)  # o is -v of `normed_change`
            change = normed_change(v_f, v_ggf, v_v, gv_gv, r2, gf_gf, width, eps)
        ignored = hidden if counted is None else ~counted[b, tokens]
        energy[b] = change.masked_fill(ignored, 0).sum(-1).flatten()
    return energy


def _products(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    growth: Tensor,
    w: Tensor,
    squares: Tensor,
    f: Tensor | None,
    positions: Tensor,
    hidden: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Returns f.o and |o|^2 of every neuron and query of a document, each (K, d, l, 1), without a norm the last alone.

    With a norm (g^2 f).o and |g o|^2 come with them: (K, d, l, 2).

    Args:
        q: (H, l, c), queries.
        k: (K, l, c), keys.
        v: (K, l, d), u.
        growth: (K, l, d), g of the values' norm.
        w: (K, G, d, D), W.
        squares: (D, 1), ones. With a norm (D, 2): then the squares of its multipliers g.
        f: (l, D). None: no norm follows, and the first result is 0.
        positions: (l,), the positions of the tokens.
        hidden: (l,) bool, True for padding.
        scale: as in `normed_value_energy`. So are the other arguments.
        window: see there.
        softcap: see there.
        causal: see there.
    """
    (kv_heads, length, size), (group, width) = v.shape, w.shape[1::2]
    q, own = torch.unflatten(q, 0, (kv_heads, group)), (1 + growth) * v
    dots, sums = (v.new_zeros(kv_heads, size, length, squares.shape[1]) for _ in range(2))
    seen = length if window is None else min(length, ROWS + 2 * window)
    outputs = max(1, min(OUTPUTS, width, BLOCK_NUMBERS // (kv_heads * length * group)))
    rows = max(1, min(ROWS, BLOCK_NUMBERS // (kv_heads * max(seen, size) * outputs)))
    for first in range(0, width, outputs):
        columns = slice(first, first + outputs)
        w_part = w[..., columns].transpose(1, 2).contiguous()  # (K, d, G, outputs)
        projected = torch.unflatten(v @ w_part.flatten(2), 2, (group, -1))  # W_h u, (K, l, G, outputs)
        for start in range(0, length, rows):
            queries, keys = _block(start, min(start + rows, length), length, window, causal)
            sees = visible(positions[queries], positions[keys], window, causal) & ~hidden[keys]
            # Padding sees itself alone, so that it has probabilities.
            sees = sees | (positions[queries, None] == positions[None, keys])
            scores = scale * q[:, :, queries] @ k[:, None, keys].mT
            a = log_probabilities(scores, sees, softcap).exp()  # (K, G, queries, keys)
            z = a.permute(0, 3, 2, 1) @ projected[:, keys]  # (K, keys, queries, outputs)
            change = torch.unflatten(growth[:, keys].mT @ z.flatten(2), 2, z.shape[2:])  # (K, d, queries, outputs)
            m = (a @ own[:, None, keys]).permute(0, 3, 2, 1)  # (K, d, queries, G)
            change.flatten(0, 1).baddbmm_(m.flatten(0, 1), w_part.flatten(0, 1), alpha=-1)
            if f is not None:
                targets = f[queries, columns, None] * squares[columns]
                dots[:, :, queries] += torch.einsum("kiso,sox->kisx", change, targets)
            sums[:, :, queries] += change.square() @ squares[columns]
    return dots, sums


def _block(start: int, stop: int, length: int, window: int | None, causal: bool) -> tuple[slice, slice]:
    """Returns the queries of a block, and the keys among which are all that they see."""
    first = 0 if window is None else max(0, start - window + 1)
    if causal:
        last = stop
    else:
        last = length if window is None else min(length, stop + window - 1)
    return slice(start, stop), slice(first, last)
