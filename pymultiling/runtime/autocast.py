"""Whether torch.autocast is on, which rounds the factors of matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def is_autocast_on(device_type: str) -> bool:
    """Returns whether autocast is on in this thread, for devices of a type such as "cuda"."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Returns a context without autocast for devices of a type."""
    return torch.autocast(device_type, enabled=False) if is_autocast_on(device_type) else nullcontext()
