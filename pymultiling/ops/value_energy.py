"""Computes the importance of the value neurons of grouped-query attention."""

from __future__ import annotations

from torch import Tensor

from pymultiling.mathematics.documents import Documents
from pymultiling.ops.arguments import Backend, document_arguments
from pymultiling.ops.dispatch import call


def value_energy(
    attention: Tensor,
    gram: Tensor,
    documents: Tensor | Documents | None = None,
    count: int | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Computes the importance of the value neurons of grouped-query attention: the squared change of o_proj's output.

        energy[c, k d + j] = sum_{g, g'} (sum_{t in c} a[t, kG + g, j] a[t, kG + g', j]) gram[k, j, g, g']

    a[t, h, j] is dimension j of head h of token t. The G query heads k G ... k G + G - 1 share value head k. A value
    neuron reaches the output through all of them, so its contributions are added before they are squared. Attention
    probabilities sum to one, so a bias of v needs no further term.

    Args:
        attention: (tokens, K G d), a: the input of o_proj, in which the heads are concatenated. Any floating dtype.
        gram: (K, d, G, G), the products of o_proj's columns, from `value_gram`. float32, or float64 with float64 input.
        documents: (tokens,) int64, the document index of each token, -1 for padding; or the result of `group_tokens`.
            None: all tokens are one document.
        count: number of documents. None: that of `group_tokens`, or the largest index + 1 (reads `documents` from the
            device).
        backend: "auto", "triton", "cpp" or "torch".

    Returns:
        (count, K d), the importance in float32, or in float64 for float64 input. Not differentiable.

    Raises:
        ValueError: a shape, dtype or device does not fit.
        IndexError: a document index is outside [-1, count). GPU kernels do not check this: there such a
            token counts as padding.
        BackendUnavailable: the backend that was asked for cannot run here.

    Source: arXiv 2402.18815, eq. 1.
    """
    return call("value_energy", attention, gram, *document_arguments(attention, documents, count), backend=backend)


def value_gram(weight: Tensor, kv_heads: int, size: int, *, backend: Backend = "auto") -> Tensor:
    """Computes the products of the columns of o_proj that belong to the same value neuron, for `value_energy`.

        gram[k, j, g, g'] = W[:, (kG + g) d + j] . W[:, (kG + g') d + j]

    Args:
        weight: (D, K G d), W: the weight of o_proj as torch.nn.Linear stores it. Any floating dtype.
        kv_heads: K, the number of key-value heads.
        size: d, the size of a head.
        backend: "auto", "cpp" or "torch".

    Returns:
        (K, d, G, G), the products in float32, or in float64 for a float64 weight. Not differentiable.

    Raises:
        ValueError: the shape or dtype does not fit.
        BackendUnavailable: the backend that was asked for cannot run here.
    """
    return call("value_gram", weight, kv_heads, size, backend=backend)
