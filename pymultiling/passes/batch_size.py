"""Chooses the tokens of a forward by the free memory of the devices that the model is on."""

from __future__ import annotations

from pathlib import Path

import torch

from pymultiling.models.decoder import Decoder
from pymultiling.models.linear import weight_of
from pymultiling.models.pretrained import pretrained

USUAL = 4096  # tokens of a forward where the free memory is unknown; chunks have the size that belongs to it
LARGEST = 65_536  # more tokens make a forward no faster per token: its matrix products are large enough long before
LINUX_MEMORY = Path("/proc/meminfo")  # its lines are "MemAvailable:   1234 kB"
PART_OF_FREE_MEMORY = 0.5  # the rest is for what the estimate leaves out; a batch that does not fit is halved


def tokens_that_fit(decoder: Decoder) -> int:
    """Returns how many tokens a forward may have: a power of two from 1 to LARGEST.

        tokens = PART_OF_FREE_MEMORY (free memory) / (bytes of a token)

    The bytes of a token are those of the tensors that a layer has at a time, counted generously: six hidden states and
    four FFN activations in the model's dtype, and six times the queries, keys and values in float32. Where the free
    memory is unknown, the result is USUAL.

    Args:
        decoder: the model, whose weights are in memory.
    """
    free = [free_memory(device) for device in sorted({x.device for x in decoder.model.parameters()}, key=str)]
    known = [memory for memory in free if memory is not None]
    if not known:
        return USUAL
    size: int = pretrained(decoder.model).dtype.itemsize
    widths, hidden = decoder.widths(), weight_of(decoder.layers[0].o).shape[0]
    token = size * (6 * hidden + 4 * widths["ffn"]) + 24 * (widths["q"] + widths["k"] + widths["v"])
    tokens = int(PART_OF_FREE_MEMORY * min(known)) // token
    return min(LARGEST, 1 << max(0, tokens.bit_length() - 1))


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
