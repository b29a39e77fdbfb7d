"""value_energy: the importance of value neurons, which reach the output through the G query heads that share them.

    energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g']
    gram[k, j, g, g'] = W[:, (kG + g) d + j] . W[:, (kG + g') d + j],   W is the weight of o_proj

a[t, h, j] is dimension j of head h of token t. The G query heads k G ... k G + G - 1 share value head k.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast


def value_gram(weight: Tensor, kv_heads: int, size: int) -> Tensor:
    """Computes the products of the columns of o_proj that belong to the same value neuron.

    Args:
        weight: (D, K G d), W.
        kv_heads: K, the number of key-value heads.
        size: d, the size of a head.

    Returns:
        (K, d, G, G), gram in float32, or in float64 for a float64 weight.
    """
    columns = torch.unflatten(upcast(weight), 1, (kv_heads, weight.shape[1] // (kv_heads * size), size))
    return torch.einsum("okgj,okhj->kjgh", columns, columns)


def value_energy(
    attention: Tensor,
    gram: Tensor,
    documents: Tensor,
    count: int,
    offsets: Tensor | None = None,
    order: Tensor | None = None,
) -> Tensor:
    """Computes the squared change of o_proj's output when a value neuron is zeroed, summed over each document.

    Args:
        attention: (tokens, K G d), a: the input of o_proj, in which the heads are concatenated.
        gram: (K, d, G, G), the products of o_proj's columns, from `value_gram`.
        documents: (tokens,) int64, the document index of each token, -1 for padding.
        count: number of documents.
        offsets: not read: by it and `order` the kernels find the tokens of each document.
        order: not read.

    Returns:
        (count, K d), energy in float32, or in float64 for float64 input.
    """
    kv_heads, size, group, _ = gram.shape
    heads = upcast(attention).view(-1, kv_heads, group, size)
    per_token = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, gram.to(heads.dtype))
    return document_sum(per_token.flatten(1), documents, count)
