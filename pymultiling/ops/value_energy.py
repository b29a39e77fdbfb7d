"""Importance of the value neurons of grouped-query attention."""

from __future__ import annotations

from torch import Tensor

from pymultiling.ops.arguments import document_ids, require, require_matrix
from pymultiling.ops.dispatch import call


def value_energy(
    attention: Tensor,
    gram: Tensor,
    documents: Tensor | None = None,
    count: int | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Importance of the value neurons of grouped-query attention: the squared change of o_proj's output.

        energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g']

    A value neuron reaches the output through the G query heads that share it, so their contributions add before they
    are squared (arXiv 2402.18815, eq. 1). Attention probabilities sum to one: a bias of v needs nothing more.

    Args:
        attention: (tokens, K G d), the concatenated heads, the input of o_proj; any floating dtype.
        gram: (K, d, G, G), the products of o_proj's columns, from `value_gram`; float32, or float64 with float64.
        documents: (tokens,) int64, the document of each token, -1 for padding; None: all one document.
        count: number of documents; None: the largest id + 1 (reads the device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, K d) float32; float64 for float64 input. Not differentiable.

    Raises:
        ValueError: shapes or dtypes do not fit.
        IndexError, RuntimeError: an id is outside [-1, count). On a GPU such a token counts as padding.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("attention", attention)
    require(
        gram.ndim == 4 and gram.shape[2] == gram.shape[3] and gram[..., 0].numel() == attention.shape[1],
        f"gram must be (K, d, G, G) with K d G = {attention.shape[1]}, got {tuple(gram.shape)}",
    )
    documents, count = document_ids(attention, documents, count)
    return call("value_energy", attention, gram, documents, count, backend=backend)


def value_gram(weight: Tensor, kv_heads: int, size: int, *, backend: str = "auto") -> Tensor:
    """Products of the columns of o_proj that one value neuron reaches.

        gram[k, j, g, g'] = W[:, (kG + g) d + j] . W[:, (kG + g') d + j]

    Args:
        weight: o_proj's weight, (D, K G d), as torch.nn.Linear stores it; any floating dtype.
        kv_heads: K.
        size: d, the head size.
        backend: "auto", "cpp" or "torch".

    Returns:
        (K, d, G, G) float32; float64 for a float64 weight. Not differentiable.

    Raises:
        ValueError: the shape does not fit.
        BackendUnavailable: a forced backend cannot run here.
    """
    require_matrix("weight", weight)
    require(weight.shape[1] % (kv_heads * size) == 0, f"{weight.shape[1]} columns are not {kv_heads} x G x {size}")
    return call("value_gram", weight, kv_heads, size, backend=backend)
