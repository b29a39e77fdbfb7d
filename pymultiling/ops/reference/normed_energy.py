"""normed_energy: importance of the inputs of a linear map whose output passes a norm (Gemma2, Gemma3).

The sublayer returns y = g f / r with f = W x (+ bias), r^2 = mean(f^2) + eps and g the factor by which the norm
multiplies each dimension. Let v be the sum over a neuron's columns of x[t, n] W[:, n]. Subtracting v from f changes r^2
to r'^2 = r^2 + (|v|^2 - 2 f.v) / D, so

    importance = sum_t |y - y'|^2 = sum_t e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   e = 1/r - 1/r'

`normed_change` computes it. A value neuron has the columns at the same position of G neighbouring heads of d columns. A
neuron of the FFN or of o has one column: then G = d = 1, and K is the number of columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.normed_change import normed_change
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
    columns: bool = False,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
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
        columns: whether each column alone is measured too.
        offsets: not used.
        order: not used.

    Returns:
        (count, K d), the importance in float32, or in float64 for float64 input; and (count, N), the importance of each
        column alone, or (0, N) without `columns`.
    """
    weight, g = upcast(weight), upcast(multiplier)
    size, group = gram.shape[1:3]
    total = weight.new_zeros(count, weight.shape[1] // group)
    column_total = weight.new_zeros(count if columns else 0, weight.shape[1])
    for rows in torch.split(torch.arange(x.shape[0], device=x.device), ROWS):
        a, f, ids = upcast(x[rows]), upcast(output[rows]), documents[rows]
        squares = f.square().mean(1, keepdim=True) + eps, (f * g).square().sum(1, keepdim=True)
        heads = a.view(len(rows), len(gram), group, size)
        v_f = heads * (f @ weight).view_as(heads)
        v_ggf = heads * ((f * g * g) @ weight).view_as(heads)
        v_v, gv_gv = (torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, y) for y in (gram, scaled_gram))
        products = v_f.sum(2), v_ggf.sum(2), v_v, gv_gv
        total += document_sum(_change(products, *squares, f.shape[1], eps), ids, count)
        if columns:
            v_v, gv_gv = (heads.square() * y.diagonal(dim1=2, dim2=3).mT for y in (gram, scaled_gram))
            products = v_f, v_ggf, v_v, gv_gv
            column_total += document_sum(_change(products, *squares, f.shape[1], eps), ids, count)
    return total, column_total


def _change(products: tuple[Tensor, ...], r2: Tensor, gf_gf: Tensor, outputs: int, eps: float) -> Tensor:
    """Returns |y - y'|^2, (tokens, neurons), as `normed_change` does, from products (tokens, ..)."""
    v_f, v_ggf, v_v, gv_gv = (x.flatten(1) for x in products)
    return normed_change(v_f, v_ggf, v_v, gv_gv, r2, gf_gf, outputs, eps)
