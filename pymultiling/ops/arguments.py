"""Types and defaults of arguments that several operators share."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from pymultiling.mathematics.documents import Documents, one_document
from pymultiling.ops.requirements import require

Backend: TypeAlias = Literal["auto", "triton", "cuda", "cpp", "torch"]
KernelBackend: TypeAlias = Literal["triton", "cuda", "cpp"]
Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]
Metric: TypeAlias = Literal["cosine", "euclidean"]
Mode: TypeAlias = Literal["exact", "fast"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
METRICS: tuple[Metric, ...] = get_args(Metric)
MODES: tuple[Mode, ...] = get_args(Mode)


def document_arguments(
    x: Tensor, documents: Tensor | Documents | None, count: int | None
) -> tuple[Tensor, int, Tensor | None, Tensor | None]:
    """Fills in the documents of the rows of x, and returns them as the torch operators take them.

    Args:
        x: (tokens, N).
        documents: (tokens,) int64, the document index of each token; or the tokens of each document, grouped. None: all
            tokens are document 0.
        count: number of documents. None: that of the grouped tokens, or the largest index + 1.

    Returns:
        The document indices (tokens,) int64, the number of documents, and `offsets` and `order` of `Documents`. These
        are both None if the documents are given as indices: what needs them computes them.

    Raises:
        ValueError: the number of grouped documents is not `count`.
    """
    if documents is None:
        documents = one_document(x.shape[:1].numel(), 1 if count is None else count, x.device)
    ids = documents.ids if isinstance(documents, Documents) else documents
    if isinstance(documents, Documents):
        require(count is None or count == documents.count, "count must be None or that of documents")
        return ids, documents.count, documents.offsets, documents.order
    if count is None:
        count = max(int(ids.max()) + 1, 0) if ids.numel() else 0
    return ids, count, None, None


def all_valid(q: Tensor) -> Tensor:
    """Returns the (B, l) mask that declares all tokens of q (B, H, l, d) valid."""
    return torch.ones(q.shape[:1] + q.shape[2:3], dtype=torch.bool, device=q.device)
