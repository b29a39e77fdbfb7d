"""value_energy: the importance of value neurons, which reach the output through the G query heads that share them.

energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g']
gram[k, j, g, g'] = W[:, (kG + g) d + j] . W[:, (kG + g') d + j],   W is the weight of o_proj
"""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.mathematics.sums import document_sum, upcast


def value_gram(weight: Tensor, kv_heads: int, size: int) -> Tensor:
    columns = upcast(weight).view(weight.shape[0], kv_heads, -1, size)
    return torch.einsum("okgj,okhj->kjgh", columns, columns)


def value_energy(attention: Tensor, gram: Tensor, documents: Tensor, count: int) -> Tensor:
    kv_heads, size, group, _ = gram.shape
    heads = upcast(attention).view(-1, kv_heads, group, size)
    per_token = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, gram.to(heads.dtype))
    return document_sum(per_token.flatten(1), documents, count)
