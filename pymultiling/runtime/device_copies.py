"""Copies between the host and a device that do not make the host wait for the device.

A plain copy from a GPU, and every value that Python reads from a tensor there, waits until all launched work is done.
Then the GPU has nothing to do until Python has launched more.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Returns x on a device. A copy from the host to a GPU is made of pinned memory, so that the host does not wait."""
    if x.device == device:
        return x
    if x.device.type == "cpu":
        return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
    return x.to(device)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Returns a + b on the device of b."""
    return to_device(a, b.device) + b


def sums_device(device: torch.device) -> torch.device:
    """Returns where to keep sums of tensors of a device: there, or on the CPU if the device has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class HostCopy:
    """A copy of a tensor that is on its way to the host. On the CPU it is the tensor itself."""

    def __init__(self, x: Tensor):
        self._copy = x.to("cpu", non_blocking=True)  # from a GPU to pinned memory
        self._event: torch.cuda.Event | None = None
        if x.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(x.device))

    def wait(self) -> Tensor:
        """Waits until the tensor has arrived, and returns it."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
