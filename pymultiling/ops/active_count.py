"""How often every neuron is active, document by document."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import document_ids, require_matrix
from pymultiling.ops.dispatch import call


def active_count(
    x: Tensor, documents: Tensor | None = None, count: int | None = None, *, backend: str = "auto"
) -> Tensor:
    """How often every neuron is active, document by document.

        active[c, n] = #{t in document c : x[t, n] > 0}

    silu, gelu, gelu_tanh and relu are positive exactly where their argument is (in floating point but for the smallest numbers,
    whose half rounds to 0). Of an FFN's gate projection this is the count of activations of LAPE (arXiv 2402.16438), of PMI
    (arXiv 2403.09073) and of arXiv 2505.21505, without the product that `gated_ffn` computes.

    Args:
        x: (tokens, N), any floating dtype; rows may be strided. NaN is not active.
        documents: (tokens,) int64, the document of each token, -1 for those that are not counted; None: all one document.
        count: number of documents; None: the largest id + 1 (reads the device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, N) int64. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError, RuntimeError: an id is outside [-1, count). Not on a GPU, whose kernels do not wait for the ids to be
            looked at: there such a token is not counted.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("x", x)
    documents, count = document_ids(x, documents, count)
    return call("active_count", x, documents, count, backend=backend)
