"""Importance of the inputs of a linear map whose output passes a norm."""

from __future__ import annotations

import torch
from torch import Tensor

from pymultiling.ops.arguments import document_ids, require, require_matrix
from pymultiling.ops.dispatch import call


def normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor | None = None,
    count: int | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Importance of the inputs of a linear map whose output passes a norm (Gemma2, Gemma3, OLMo2).

        f = W x (+ bias),   y = g f / r,   r^2 = mean(f^2) + eps,   y' the same without the neuron
        energy[c, n] = sum over the tokens t of document c of |y[t] - y'[t]|^2                   (arXiv 2402.18815, eq. 1)

    A neuron is the same place in G neighbouring heads of d columns of W (V), or one column (FFN and O, with G = d = 1).
    With v = sum over its columns of x[t, n] W[:, n] and e = 1/r - 1/r',

        |y - y'|^2 = e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   r'^2 = r^2 + (|v|^2 - 2 f.v) / D

    exact, and nothing of size tokens x N x D is made.

    Args:
        x: (tokens, N), the inputs of the map; any floating dtype.
        output: (tokens, D), f, its outputs, bias included; any floating dtype.
        weight: W, (D, N), as torch.nn.Linear stores it; any floating dtype.
        multiplier: (D,), g as the norm applies it (1 + weight, in Gemma's).
        gram: (K, d, G, G), `value_gram` of W: K G d = N; float32, or float64 with float64.
        scaled_gram: as gram, of g W.
        eps: of the norm.
        documents: (tokens,) int64, the document of each token, -1 for padding; None: all one document.
        count: number of documents; None: the largest id + 1 (reads the device).
        backend: "auto" or "torch": plain PyTorch runs it everywhere.

    Returns:
        (count, K d) float32; float64 for float64 input. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit; some are float64 and others are not.
        IndexError, RuntimeError: an id is outside [-1, count).
        BackendUnavailable: another backend was forced.
    """
    require_matrix("x", x)
    require_matrix("output", output)
    require_matrix("weight", weight)
    require(
        weight.shape == (output.shape[1], x.shape[1]) and len(output) == len(x),
        f"x, output and weight must be (tokens, N), (tokens, D) and (D, N), got {tuple(x.shape)}, "
        f"{tuple(output.shape)} and {tuple(weight.shape)}",
    )
    require(multiplier.shape == weight.shape[:1], f"multiplier must be ({len(weight)},), got {tuple(multiplier.shape)}")
    require(
        gram.ndim == 4 and gram.shape[2] == gram.shape[3] and gram[..., 0].numel() == x.shape[1],
        f"gram must be (K, d, G, G) with K d G = {x.shape[1]}, got {tuple(gram.shape)}",
    )
    require(scaled_gram.shape == gram.shape, f"scaled_gram must be {tuple(gram.shape)}, got {tuple(scaled_gram.shape)}")
    tensors = (x, output, weight, multiplier, gram, scaled_gram)
    double = {one.dtype == torch.float64 for one in tensors}
    require(len(double) == 1, f"all must be float64 or none, got {', '.join(str(one.dtype) for one in tensors)}")
    documents, count = document_ids(x, documents, count)
    return call(
        "normed_energy", x, output, weight, multiplier, gram, scaled_gram, float(eps), documents, count, backend=backend
    )
