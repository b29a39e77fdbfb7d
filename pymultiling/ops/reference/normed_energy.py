"""normed_energy: importance of the inputs of a linear map whose output passes a norm (Gemma2, Gemma3).

The sublayer returns y = g f / r with f = W x (+ bias), r^2 = mean(f^2) + eps and g the factor by which the norm
multiplies each dimension. Let v be the sum over a neuron's columns of x[t, n] W[:, n]. Subtracting v from f changes r^2
to r'^2 = r^2 + (|v|^2 - 2 f.v) / D, so

    importance = sum_t |y - y'|^2 = sum_t e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   e = 1/r - 1/r'

e is computed as (r'^2 - r^2) / (r r' (r + r')), which keeps its digits when v is small. A value neuron has the columns
at the same position of G neighbouring heads of d columns. A neuron of the FFN or of o has one column: then G = d = 1,
and K is the number of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast

ROWS = 256  # tokens at a time, so that temporary tensors have ROWS x N numbers, whatever the size of the batch


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
    """Computes the sum over each document's tokens of |y - y'|^2, where y' is y without the neuron.

    Args:
        x: (tokens, N), the inputs of the linear map, N = K G d.
        output: (tokens, D), f: the outputs of the linear map, bias included.
        weight: (D, N), W.
        multiplier: (D,), g.
        gram: (K, d, G, G), the products of a neuron's columns of W: gram[k, j, g, h] is the product of columns
            (k G + g) d + j and (k G + h) d + j.
        scaled_gram: (K, d, G, G), the same for the columns of g W.
        eps: eps of the norm.
        documents: (tokens,) int64, the document index of each token, -1 for padding.
        count: number of documents.

    Returns:
        (count, K d), the importance in float32, or in float64 for float64 input.
    """
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
