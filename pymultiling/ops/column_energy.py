"""Sum of squares of every column, document by document."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import document_ids, require_matrix
from pymultiling.ops.dispatch import call


def column_energy(
    x: Tensor, documents: Tensor | None = None, count: int | None = None, *, backend: str = "auto"
) -> Tensor:
    """Sum of squares of every column, document by document.

        energy[c, n] = sum over the tokens t of document c of x[t, n]^2

    Times the squared norm of a projection's column n this is the importance of neuron n of the FFN or of O
    (arXiv 2402.18815, eq. 1).

    Args:
        x: (tokens, N), any floating dtype; rows may be strided.
        documents: (tokens,) int64, the document of each token, -1 for padding; None: all one document.
        count: number of documents; None: the largest id + 1 (reads the device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, N) float32; float64 for float64 input. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError, RuntimeError: an id is outside [-1, count). Not on a GPU, whose kernels do not wait for the ids to be
            looked at: there such a token counts as padding.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("x", x)
    documents, count = document_ids(x, documents, count)
    return call("column_energy", x, documents, count, backend=backend)
