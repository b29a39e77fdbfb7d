"""Keeps transformers from looking for several documents in a row of a batch, which waits for the device.

Without an attention mask, transformers compares the positions of neighbouring tokens in every forward, and reads from
the device whether a document starts in the middle of a row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import masking_utils

_transformers_search = masking_utils.find_packed_sequence_indices
_thread = threading.local()


@contextmanager
def one_document_a_row() -> Iterator[None]:
    """Inside, in this thread, transformers takes every row of a batch for one document."""
    masking_utils.find_packed_sequence_indices = _search
    _thread.is_one_document = True
    try:
        yield
    finally:
        _thread.is_one_document = False


def _search(position_ids: Tensor) -> Tensor | None:
    if not torch.compiler.is_compiling() and getattr(_thread, "is_one_document", False):
        return None
    return _transformers_search(position_ids)
