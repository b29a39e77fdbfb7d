"""normed_energy: importance of the inputs of a linear map whose output passes a norm (Gemma2, Gemma3).

The sublayer gives y = g f / r with f = W x (+ bias), r^2 = mean(f^2) + eps and g the norm's multiplier as applied.
Taking v = sum over a neuron's columns of x[t, n] W[:, n] out of f changes r^2 to r'^2 = r^2 + (|v|^2 - 2 f.v) / D, so

    importance = sum_t |y - y'|^2 = sum_t e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   e = 1/r - 1/r'

e is computed as (r'^2 - r^2) / (r r' (r + r')), which keeps its digits when v is small. A neuron is one column
(group 1: FFN and O) or the same place in G neighbouring heads of `size` columns (V).
"""

import torch
from torch import Tensor

from pymultiling.reference.segments import document_sum, wide

ROWS = 256  # tokens worked on at a time: a few (ROWS, N) temporaries, whatever the batch


def normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    eps: float,
    documents: Tensor,
    count: int,
    group: int = 1,
    size: int = 1,
) -> Tensor:
    """x (tokens, N), output f (tokens, D), weight (D, N), multiplier g (D,) -> (count, N / group)."""
    weight, g = wide(weight), wide(multiplier)
    plain = _gram(weight, group, size)
    scaled = _gram(weight * g[:, None], group, size)
    total = weight.new_zeros(count, weight.shape[1] // group)
    for rows in torch.arange(x.shape[0], device=x.device).split(ROWS):
        a, f = wide(x[rows]), wide(output[rows])
        heads = a.view(len(rows), -1, group, size)
        v_f = (heads * (f @ weight).view_as(heads)).sum(2).flatten(1)
        v_ggf = (heads * ((f * g * g) @ weight).view_as(heads)).sum(2).flatten(1)
        v_v = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, plain).flatten(1)
        gv_gv = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, scaled).flatten(1)
        r2 = f.square().mean(1, keepdim=True) + eps
        change = (v_v - 2 * v_f) / f.shape[1]
        new_r2 = (r2 + change).clamp(min=eps)
        r, new_r = r2.sqrt(), new_r2.sqrt()
        e = change / (r * new_r * (r + new_r))
        gf_gf = (f * g).square().sum(1, keepdim=True)
        energy = e.square() * gf_gf + 2 * e * v_ggf / new_r + gv_gv / new_r2
        total += document_sum(energy, documents[rows], count)
    return total


def _gram(weight: Tensor, group: int, size: int) -> Tensor:
    """(D, N) -> (N / group / size, size, group, group): products of the columns that make one neuron."""
    columns = weight.view(weight.shape[0], -1, group, size)
    return torch.einsum("dkgj,dkhj->kjgh", columns, columns)
