"""Counts how often each neuron is active in each document."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.documents import Documents
from pymultiling.ops.arguments import Backend, document_arguments
from pymultiling.ops.dispatch import call


def active_count(
    x: Tensor, documents: Tensor | Documents | None = None, count: int | None = None, *, backend: Backend = "auto"
) -> Tensor:
    """Counts how often each neuron is active in each document.

        active[c, n] = number of tokens t of document c with x[t, n] > 0

    silu, gelu, gelu_tanh and relu are positive exactly where their argument is positive. (In floating point there is an
    exception: for the smallest positive numbers the activation may round to 0.) If x is the output of an FFN's gate
    projection, the result is therefore the activation count of the papers below. Unlike `gated_ffn`, this operator does
    not compute the product of gate and up.

    Args:
        x: (tokens, N), any floating dtype and any strides. NaN is not active.
        documents: (tokens,) int64, the document index of each token, -1 for tokens that are not counted; or the
            result of `group_tokens`. None: all tokens are one document.
        count: number of documents. None: that of `group_tokens`, or the largest index + 1 (reads `documents` from the
            device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, N) int64, the counts. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        IndexError: a document index is outside [-1, count). GPU kernels do not check this, because they
            would have to wait for the indices: there such a token is not counted.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.16438 (LAPE), arXiv 2403.09073 (PMI), arXiv 2505.21505 (ternary neurons).
    """
    return call("active_count", x, *document_arguments(x, documents, count), backend=backend)
