"""The published formulation of query importance (arXiv 2402.18815, eq. 9-11), with l x l x d tensors."""

import torch
from torch import Tensor


def published_q(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Returns the squared change of causal attention's probabilities for every query neuron.

    The attention scores without each dimension of the rotated query are computed at once, (H, d, l, l), followed by one
    softmax over them.

    Args:
        q: (1, H, l, d), rotated queries.
        k: (1, K, l, d), rotated keys.
        scale: factor of the attention scores.

    Returns:
        (H, d).
    """
    heads, length = q.shape[1], q.shape[2]
    k = k.repeat_interleave(heads // k.shape[1], 1)
    causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    scores = (scale * q @ k.transpose(-1, -2)).masked_fill(~causal, -torch.inf)
    without = scores[:, :, None] - scale * q.transpose(-1, -2)[..., None] * k.transpose(-1, -2)[..., None, :]
    change = without.softmax(-1) - scores.softmax(-1)[:, :, None]
    return (change**2).sum((-2, -1))[0]
