"""Chooses the tokens of a forward by the free memory of the devices that the model is on."""

from __future__ import annotations

from pymultiling.models.decoder import Decoder
from pymultiling.models.pretrained import pretrained
from pymultiling.runtime.free_memory import free_memory

USUAL = 4096  # tokens of a forward where the free memory is unknown; chunks have the size that belongs to it
LARGEST = 65_536  # more tokens make a forward no faster per token: its matrix products are large enough long before
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
    widths, hidden = decoder.widths(), decoder.hidden_size
    token = size * (6 * hidden + 4 * widths["ffn"]) + 24 * (widths["q"] + widths["k"] + widths["v"])
    tokens = int(PART_OF_FREE_MEMORY * min(known)) // token
    return min(LARGEST, 1 << max(0, tokens.bit_length() - 1))
