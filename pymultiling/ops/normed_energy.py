"""Computes the importance of the inputs of a linear map whose output passes a norm."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pymultiling.mathematics.documents import Documents
from pymultiling.ops.arguments import Backend, document_arguments
from pymultiling.ops.dispatch import call_tuple
from pymultiling.runtime.short_repr import short_repr


class NormedEnergy(NamedTuple):
    """Result of `normed_energy`, float32, or float64 for float64 input.

    Attributes:
        energy: (count, K d), the importance of the neurons.
        columns: (count, N), the importance of every column of W as a neuron of its own; (0, N) unless asked for.
    """

    energy: Tensor
    columns: Tensor

    def __repr__(self) -> str:
        return short_repr(self)


def normed_energy(
    x: Tensor,
    output: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    gram: Tensor,
    scaled_gram: Tensor,
    eps: float,
    documents: Tensor | Documents | None = None,
    count: int | None = None,
    *,
    columns: bool = False,
    backend: Backend = "auto",
) -> NormedEnergy:
    """Computes the importance of the inputs of a linear map whose output passes an RMS norm (Gemma2, Gemma3, OLMo2).

        f = W x (+ bias),   y = g f / r,   r^2 = mean(f^2) + eps
        energy[c, n] = sum over the tokens t of document c of |y[t] - y'[t]|^2,   y' is y without neuron n

    The columns of W form K groups of G neighbouring heads of d columns. Value neuron (k, i) has column i of every head
    of group k, which are G columns. A neuron of the FFN or of o has one column: then G = d = 1 and K = N. Let v be the
    sum of the neuron's columns of W, each times its x of token t, r' the r of y', and e = 1/r - 1/r'. Then

        |y - y'|^2 = e^2 |g f|^2 + 2 e (g^2 f).v / r' + |g v|^2 / r'^2,   r'^2 = r^2 + (|v|^2 - 2 f.v) / D

    This is exact, and no tensor of size tokens x N x D is made.

    Args:
        x: (tokens, N), the inputs of the map. Any floating dtype.
        output: (tokens, D), f: the outputs of the map, bias included. Any floating dtype.
        weight: (D, N), W as torch.nn.Linear stores it. Any floating dtype.
        multiplier: (D,), g as the norm applies it (1 + weight in Gemma's norms). Any floating dtype.
        gram: (K, d, G, G), `value_gram` of W, K G d = N. float32, or float64 with float64 input.
        scaled_gram: (K, d, G, G), `value_gram` of g W. float32, or float64 with float64 input.
        eps: the norm's eps.
        documents: (tokens,) int64, the document index of each token, -1 for padding; or the result of `group_tokens`.
            None: all tokens are one document.
        count: number of documents. None: that of `group_tokens`, or the largest index + 1 (reads `documents` from the
            device).
        columns: whether every column is measured as a neuron of its own too. For site o beside v: the products with W,
            which take most of the time, serve both.
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        energy (count, K d) and columns. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit, or some tensors are float64 and others are not.
        IndexError: a document index is outside [-1, count).
        BackendUnavailable: another backend was asked for.

    Source: arXiv 2402.18815, eq. 1.
    """
    ids, count, *grouped = document_arguments(x, documents, count)
    tensors = (x, output, weight, multiplier, gram, scaled_gram)
    return NormedEnergy(
        *call_tuple("normed_energy", *tensors, float(eps), ids, count, columns, *grouped, backend=backend)
    )
