"""Sums the squares of each column over the tokens of each document."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.documents import Documents
from pymultiling.ops.arguments import Backend, document_arguments
from pymultiling.ops.dispatch import call


def column_energy(
    x: Tensor, documents: Tensor | Documents | None = None, count: int | None = None, *, backend: Backend = "auto"
) -> Tensor:
    """Sums the squares of each column over the tokens of each document.

        energy[c, n] = sum over the tokens t of document c of x[t, n]^2

    Multiplied by the squared norm of column n of the projection that reads x, this is the importance of neuron n of the
    FFN or of o.

    Args:
        x: (tokens, N), any floating dtype and any strides.
        documents: (tokens,) int64, the document index of each token, -1 for padding; or the result of `group_tokens`.
            None: all tokens are one document.
        count: number of documents. None: that of `group_tokens`, or the largest index + 1 (reads `documents` from the
            device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, N), the sums in float32, or in float64 for float64 input. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        IndexError: a document index is outside [-1, count). GPU kernels do not check this, because they
            would have to wait for the indices: there such a token counts as padding.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.18815, eq. 1.
    """
    return call("column_energy", x, *document_arguments(x, documents, count), backend=backend)
