"""Computes the importance of the value neurons of attention whose values pass a norm over the head."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import Backend, all_valid
from pymultiling.ops.dispatch import call


def normed_value_energy(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    growth: Tensor,
    weight: Tensor,
    valid: Tensor | None = None,
    counted: Tensor | None = None,
    factors: Tensor | None = None,
    output: Tensor | None = None,
    multiplier: Tensor | None = None,
    *,
    eps: float = 0.0,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the importance of value neurons whose values pass an RMS norm over the head (Gemma 3n, Gemma 4).

        u = x / r,   r^2 = mean(x^2) + eps_v,   A = softmax(scale q k^T),   f[s] = sum_ht A_h[s, t] W_h u[t] (+ bias)
        importance[i] = sum over the queries s of |f'[s] - f[s]|^2, or with a norm y of f of |y'[s] - y[s]|^2

    x are the values of a head before the norm, and eps_v is the norm's eps. f' is f with x[i] = 0 in all tokens.
    Without it the other values of the head grow by the factor 1 + g, so that

        f'[s] - f[s] = sum_ht A_h[s, t] W_h (g[t, i] u[t] - (1 + g[t, i]) u[t, i] e_i)

    h runs over the query heads that share the value head. This is exact. In float32 a value that is nearly all of its
    head loses digits: its error grows by the factor 1 + g.

    Args:
        q: (B, H, l, c), the queries as attention multiplies them. Any floating dtype.
        k: (B, K, l, c), the keys as attention multiplies them, in q's dtype. K divides H: query heads k G ... k G + G -
            1 share key head k.
        v: (B, K, l, d), u: the values behind their norm. Any floating dtype.
        growth: (B, K, l, d), g of every value neuron: r / r' - 1, where r'^2 = r^2 - x^2 / d. At least 0. Any floating
            dtype.
        weight: (D, H d), W of o_proj, as torch.nn.Linear stores it. Any floating dtype.
        valid: (B, l) bool, False for padding. None: all tokens are valid.
        counted: (B, l) bool, the queries that are summed over, none of which is padding. None: those of all valid
            tokens.
        factors: (B, H d), by which the inputs of o_proj are multiplied in each document, 0 for o neurons that are off.
            Any floating dtype. None: they are not multiplied.
        output: (B, l, D), f: the outputs of o_proj, bias included, where they pass an RMS norm y. Any floating dtype.
            None: they pass none.
        multiplier: (D,), what y multiplies by (1 + weight in some norms). Any floating dtype. Give it with `output`.
        eps: the eps of y.
        scale: factor of the attention scores, usually d^-1/2.
        window: number of positions that a query sees, its own and those directly before it. None: all up to its own.
            Without `causal` it sees the tokens whose distance is below the window.
        softcap: attention scores become softcap * tanh(score / softcap). None: they are not capped.
        causal: whether a query sees no keys after its own. False: it sees all tokens of its document.
        backend: "auto" or "torch".

    Returns:
        (B, K d), the importance in float32, or in float64 for float64 input. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit, or some tensors are float64 and others are not.
        BackendUnavailable: another backend was asked for.

    Source: arXiv 2402.18815, eq. 1.
    """
    if valid is None:
        valid = all_valid(q)
    tensors = (q, k, v, growth, weight, valid, counted, factors, output, multiplier)
    return call("normed_value_energy", *tensors, float(eps), scale, window, softcap, causal, backend=backend)
