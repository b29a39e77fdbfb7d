"""The published formulation of query importance (arXiv 2402.18815, eq. 9-11), from its equations: l x l x d tensors."""

import torch
from torch import Tensor


def published_q(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q (1, H, l, d) and k (1, K, l, d), rotated -> (H, d): the squared change of causal attention's probabilities.

    Dimension n of the rotated query is taken out of all scores at once: (H, d, l, l) scores, one more softmax over them.
    """
    heads, length = q.shape[1], q.shape[2]
    k = k.repeat_interleave(heads // k.shape[1], 1)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    scores = (scale * q @ k.transpose(-1, -2)).masked_fill(~causal, -torch.inf)
    without = scores[:, :, None] - scale * q.transpose(-1, -2)[..., None] * k.transpose(-1, -2)[..., None, :]
    change = without.softmax(-1) - scores.softmax(-1)[:, :, None]
    return (change**2).sum((-2, -1))[0]
