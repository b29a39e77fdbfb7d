"""What the importance of query and key neurons is computed from: one tuple, passed whole."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class QKProblem(NamedTuple):
    """An attention layer, as `pymultiling.ops.qk_importance` describes it, in the order of the torch operators' arguments.

    Attributes:
        q, k: (B, H, l, d) and (B, K, l, d), rotated queries and keys.
        q_plain, k_plain: the same before the rotation; None: neurons are zeroed after it.
        cos, sin: (B or 1, l, r), the rotation's tables; None: no rotation.
        valid: (B, l) bool, False for padding.
        q_gain, k_gain: by what factor a norm makes the rest of the head grow without a neuron; None: no norm.
        scale, window, softcap, interleaved: as in `qk_importance`.
    """

    q: Tensor
    k: Tensor
    q_plain: Tensor | None
    k_plain: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    valid: Tensor
    q_gain: Tensor | None
    k_gain: Tensor | None
    scale: float
    window: int | None
    softcap: float | None
    interleaved: bool

    def largest_score(self) -> float:
        """The largest |scale q k| of any query and key, before the soft cap, in float64; 0 where there is none."""
        keys = self.k.double().repeat_interleave(self.q.shape[1] // self.k.shape[1], 1)
        scores = self.scale * self.q.double() @ keys.transpose(-1, -2)
        return float(scores.abs().max()) if scores.numel() else 0.0
