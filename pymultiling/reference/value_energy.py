"""value_energy: the importance of value neurons, which reach the output through the G query heads that share them.

    energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g']
"""

import torch
from torch import Tensor

from pymultiling.reference.segments import document_sum, wide


def value_energy(attention: Tensor, gram: Tensor, documents: Tensor, count: int) -> Tensor:
    kv_heads, size, group, _ = gram.shape
    heads = wide(attention).view(-1, kv_heads, group, size)
    per_token = torch.einsum("tkgj,tkhj,kjgh->tkj", heads, heads, gram.to(heads.dtype))
    return document_sum(per_token.flatten(1), documents, count)
