"""How the output of an RMS norm changes when a vector is subtracted from the norm's input."""

from __future__ import annotations

from torch import Tensor


def normed_change(
    v_f: Tensor, v_ggf: Tensor, v_v: Tensor, gv_gv: Tensor, r2: Tensor, gf_gf: Tensor, inputs: int, eps: float
) -> Tensor:
    """Returns |y - y'|^2, where y = g f / r and y' is the same for f - v in place of f.

        r^2 = mean(f^2) + eps,   r'^2 = r^2 + (|v|^2 - 2 f.v) / D,   e = 1/r - 1/r'
        |y - y'|^2 = e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2

    e is computed as (r'^2 - r^2) / (r r' (r + r')), which keeps its digits where v is small.

    Args:
        v_f: f.v, of any shape, in float32 or float64. So are the next three.
        v_ggf: (g^2 f).v.
        v_v: |v|^2.
        gv_gv: |g v|^2.
        r2: r^2, of a shape that broadcasts with that of v_f.
        gf_gf: |g f|^2, of a shape that broadcasts with that of v_f.
        inputs: D, the length of f.
        eps: eps of the norm.

    Returns:
        The squared change, at least 0, of the shape of v_f.
    """
    change = (v_v - 2 * v_f) / inputs
    new_r2 = (r2 + change).clamp(min=eps)
    r, new_r = r2.sqrt(), new_r2.sqrt()
    e = change / (r * new_r * (r + new_r))
    return (e.square() * gf_gf + 2 * e * v_ggf / new_r + gv_gv / new_r2).clamp(min=0)
