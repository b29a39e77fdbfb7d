"""Free memory of devices."""

from __future__ import annotations

from pathlib import Path

import torch

LINUX_MEMORY = Path("/proc/meminfo")  # its lines are "MemAvailable:   1234 kB"


def free_memory(device: torch.device) -> int | None:
    """Returns the free bytes of a device, or None if they are unknown.

    On a GPU memory that PyTorch has reserved but does not use is free too. On the CPU this is what the operating system
    can give without swapping, where Linux tells.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu" or not LINUX_MEMORY.exists():
        return None
    fields = dict(line.split(":") for line in LINUX_MEMORY.read_text("ascii").splitlines())
    return 1024 * int(fields["MemAvailable"].split()[0])
