"""normed_energy: importance of the inputs of a linear map whose output passes a norm (Gemma2, Gemma3).

The sublayer gives y = g f / r with f = W x (+ bias), r^2 = mean(f^2) + eps and g the norm's multiplier as applied.
Let v be the sum over a neuron's columns of x[t, n] W[:, n]. Subtracting v from f changes r^2 to
r'^2 = r^2 + (|v|^2 - 2 f.v) / D, so

    importance = sum_t |y - y'|^2 = sum_t e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   e = 1/r - 1/r'

e is computed as (r'^2 - r^2) / (r r' (r + r')), which keeps its digits when v is small. A neuron has the same position
in G neighbouring heads of d columns (v), or has one column (FFN and o: as many heads of one column as there are, with
G = 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast

ROWS = 256  # tokens at a time: a few (ROWS, N) temporaries, whatever the size of the batch


def normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor,
    count: int,
) -> Tensor:
    weight, g = upcast(weight), upcast(multiplier)
    size, group = gram.shape[1:3]
    total = weight.new_zeros(count, weight.shape[1] // group)
    for rows in torch.split(torch.arange(x.shape[0], device=x.device), ROWS):
        a, f = upcast(x[rows]), upcast(output[rows])
        heads = a.view(len(rows), len(gram), group, size)
        v_f = (heads * (f @ weight).view_as(heads)).sum(2).flatten(1)
        v_ggf = (heads * ((f * g * g) @ weight).view_as(heads)).sum(2).flatten(1)
        v_v = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, gram).flatten(1)
        gv_gv = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, scaled_gram).flatten(1)
        r2 = f.square().mean(1, keepdim=True) + eps
        change = (v_v - 2 * v_f) / f.shape[1]
        new_r2 = (r2 + change).clamp(min=eps)
        r, new_r = r2.sqrt(), new_r2.sqrt()
        e = change / (r * new_r * (r + new_r))
        gf_gf = (f * g).square().sum(1, keepdim=True)
        energy = e.square() * gf_gf + 2 * e * v_ggf / new_r + gv_gv / new_r2
        total += document_sum(energy.clamp(min=0), documents[rows], count)
    return total
