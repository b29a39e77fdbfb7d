"""What kind of GPU a device is."""

from __future__ import annotations

import functools

import torch


def capability(device: torch.device | None) -> tuple[int, int]:
    """Returns the compute capability of a GPU; None: of the current one. torch is asked once for each GPU."""
    index = None if device is None else device.index
    return _capability(torch.cuda.current_device() if index is None else index)


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)
