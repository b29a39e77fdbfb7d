"""Attention in chunks (Llama 4): a token sees the tokens of its own chunk of the document, up to itself.

So a chunk is like a document of its own. transformers counts chunks from the first token that is no padding.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pymultiling.probes.scores import ScoreInputs


def chunk_numbers(valid: Tensor, size: int) -> Tensor:
    """Returns (B, l) int64, the number of each token's chunk; negative in the padding before a document.

    Args:
        valid: (B, l) bool, False for padding.
        size: the number of tokens of a chunk.
    """
    places = torch.arange(valid.shape[1], device=valid.device) - valid.int().argmax(1)[:, None]
    return places.div(size, rounding_mode="floor")


def split_chunks(inputs: ScoreInputs, valid: Tensor, size: int) -> tuple[ScoreInputs, Tensor]:
    """Makes each chunk of the documents a document.

    Args:
        inputs: the inputs of the attention scores of B documents, with no `bias`.
        valid: (B, l) bool, False for padding.
        size: the number of tokens of a chunk.

    Returns:
        The inputs of B n documents of `size` tokens, where n = ceil(l / size) and those of one document follow each
        other; and (B n, size) bool, False for padding.
    """
    count, length = valid.shape
    chunks = -(-length // size)
    places = torch.arange(chunks * size, device=valid.device) + valid.int().argmax(1)[:, None]
    rows, is_inside = torch.arange(count, device=valid.device)[:, None], places < length
    places = places.clamp(max=length - 1)

    def take(x: Tensor) -> Tensor:
        """(B or 1, l, ...) -> (B n, size, ...)."""
        return x.expand(count, *x.shape[1:])[rows, places].reshape(count * chunks, size, *x.shape[2:])

    def take_heads(x: Tensor) -> Tensor:
        """(B, heads, l, d) -> (B n, heads, size, d)."""
        return take(x.transpose(1, 2)).transpose(1, 2)

    cut = replace(
        inputs,
        query=take_heads(inputs.query),
        key=take_heads(inputs.key),
        q=take(inputs.q),
        k=None if inputs.k is None else take(inputs.k),
        rotation=None if inputs.rotation is None else (take(inputs.rotation[0]), take(inputs.rotation[1])),
        query_factors=None if inputs.query_factors is None else take(inputs.query_factors),
        chunk=None,
    )
    return cut, take(valid) & is_inside.view(-1, size)
