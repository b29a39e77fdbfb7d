"""Keeps transformers from reading attention masks and positions, which waits for the device.

Without an attention mask, transformers compares the positions of neighbouring tokens in every forward, and reads from
the device whether a document starts in the middle of a row. With one, it reads whether there is padding at all, because
it leaves out a mask that hides nothing. It does not while torch traces the forward, and then builds the mask.

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
def without_mask_reads(has_mask: bool) -> Iterator[None]:
    """Inside, in this thread, transformers takes every row for one document, and reads no attention mask.

    Args:
        has_mask: whether the forwards inside get an attention mask, which must hide some token. Without one,
            transformers builds no mask because of a CUDA graph that is recorded.
    """
    masking_utils.find_packed_sequence_indices = _search
    masking_utils.is_tracing = _is_tracing  # type: ignore[attr-defined]
    _thread.has_mask = has_mask
    try:
        yield
    finally:
        del _thread.has_mask


def _search(position_ids: Tensor) -> Tensor | None:
    if _has_mask() is not None:
        return None
    return _transformers_search(position_ids)


def _is_tracing(tensor: Tensor | None = None) -> bool:
    has_mask = _has_mask()
    if has_mask or (has_mask is not None and tensor is not None):  # also for a mask that the model itself made (BioGPT)
        return True
    if has_mask is not None and _is_recorded():
        return False
    is_tracing: bool = _transformers_is_tracing(tensor)
    return is_tracing


def _is_recorded() -> bool:
    """Whether a CUDA graph is recorded. A torch that was built without CUDA cannot be asked."""
    is_built: bool = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    return is_built and torch.cuda.is_current_stream_capturing()


def _has_mask() -> bool | None:
    """Returns `has_mask` of the context that this thread is in, or None outside."""
    return None if torch.compiler.is_compiling() else getattr(_thread, "has_mask", None)
