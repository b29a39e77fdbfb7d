"""The inputs from which the importance of query and key neurons is computed, as one tuple."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class QKProblem(NamedTuple):
    """The inputs of `pymultiling.ops.qk_importance` for one attention layer, in the order of the torch operators.

    B documents of l tokens have H query heads and K key heads of d dimensions. The first r dimensions are rotated.

    Attributes:
        q: (B, H, l, d), rotated queries.
        k: (B, K, l, d), rotated keys.
        q_plain: (B, H, l, d), queries before the rotation; None if neurons are zeroed after it.
        k_plain: (B, K, l, d), keys before the rotation; None if neurons are zeroed after it.
        cos: (B or 1, l, r), cosines of the rotation; None if there is no rotation.
        sin: (B or 1, l, r), sines of the rotation; None if there is no rotation.
        valid: (B, l) bool, False for padding.
        q_growth: (B, H, l, d): a norm makes the rest of the head grow by the factor 1 + growth without a query neuron;
            None without a norm.
        k_growth: (B, K, l, d), the same without a key neuron; None without a norm.
        scale: factor of the attention scores.
        window: number of positions that a query sees, its own included; None if it sees all up to its own. Without
            `causal` it sees the keys whose distance is below the window, or all if it is None.
        softcap: soft cap of the attention scores; None if there is none.
        interleaved: whether dimensions 2m and 2m + 1 are rotated together, instead of m and m + r/2.
        sinks: (H,), the score of each head's attention sink, which softmax weighs beside the keys; -inf is no sink.
            None: no head has one.
        causal: whether a query sees no keys after its own.
        bias: (B or 1, H, l, l), added to the attention scores; None: nothing is added. There is no soft cap then.
    """

    q: Tensor
    k: Tensor
    q_plain: Tensor | None
    k_plain: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    valid: Tensor
    q_growth: Tensor | None
    k_growth: Tensor | None
    scale: float
    window: int | None
    softcap: float | None
    interleaved: bool
    sinks: Tensor | None = None
    causal: bool = True
    bias: Tensor | None = None

    def largest_score(self) -> float:
        """Returns the largest finite |attention score| before the soft cap, in float64, or 0 if there is none.

        The scores of sinks are among them, and biases count.
        """
        keys = self.k.double().repeat_interleave(self.q.shape[1] // self.k.shape[1], 1)
        scores = self.scale * self.q.double() @ keys.transpose(-1, -2)
        if self.bias is not None:
            scores = scores.abs() + self.bias.double().abs()
        given = [scores.flatten(), *([] if self.sinks is None else [self.sinks.double()])]
        magnitudes = torch.cat(given).abs().nan_to_num(0, 0)
        return float(magnitudes.max()) if scores.numel() else 0.0
