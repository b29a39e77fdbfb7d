"""Keeps transformers from looking for several documents in a row of a batch, which waits for the device.

Without an attention mask, transformers compares the positions of neighbouring tokens in every forward, and reads from
the device whether a document starts in the middle of a row.

While a CUDA graph is recorded, transformers 5.0 and some later versions build a mask that they leave out otherwise. The
recorded forward would run other kernels. Without an attention mask the choice depends on lengths alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import masking_utils

_transformers_search = masking_utils.find_packed_sequence_indices
_transformers_is_tracing = masking_utils.is_tracing  # type: ignore[attr-defined]
_thread = threading.local()


@contextmanager
def one_document_a_row() -> Iterator[None]:
    """Inside, in this thread, transformers takes every row for one document, also while a CUDA graph is recorded."""
    masking_utils.find_packed_sequence_indices = _search
    masking_utils.is_tracing = _is_tracing  # type: ignore[attr-defined]
    _thread.is_one_document = True
    try:
        yield
    finally:
        _thread.is_one_document = False


def _search(position_ids: Tensor) -> Tensor | None:
    if _is_one_document():
        return None
    return _transformers_search(position_ids)


def _is_tracing(tensor: Tensor | None = None) -> bool:
    if _is_one_document() and torch.cuda.is_current_stream_capturing():
        return False
    is_tracing: bool = _transformers_is_tracing(tensor)
    return is_tracing


def _is_one_document() -> bool:
    return not torch.compiler.is_compiling() and getattr(_thread, "is_one_document", False)
