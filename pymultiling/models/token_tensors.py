"""Turns what a tokenizer returns into the two tensors that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# (documents, length); or the tokens of every document, or of a single one; or what a tokenizer returns, which has
# input_ids and may have an attention_mask.
TokenIds: TypeAlias = Tensor | Sequence[Sequence[int]] | Sequence[int] | Mapping[str, object]


def token_tensors(input_ids: TokenIds, attention_mask: TokenIds | None) -> tuple[Tensor, Tensor | None]:
    """Returns the tokens and the mask as tensors.

    Documents of different lengths are padded on the right. The mask then hides the padding.

    Args:
        input_ids: the tokens of documents.
        attention_mask: 1 for each token, 0 for padding; None: that of `input_ids` if it has one, else no padding.

    Returns:
        (documents, length) int64, and (documents, length) or None.

    Raises:
        ValueError: these are no tokens of documents, or the mask is not 0 or 1 for each token.
    """
    values: object = input_ids
    mask_values: object = attention_mask
    if isinstance(input_ids, Mapping):
        if "input_ids" not in input_ids:
            raise ValueError(f"input_ids is a mapping without input_ids, with {', '.join(map(str, input_ids))} only")
        values = input_ids["input_ids"]
        mask_values = input_ids.get("attention_mask") if attention_mask is None else attention_mask
    ids, lengths = _tensor(values, "input_ids")
    if ids.is_floating_point() or ids.dtype == torch.bool or not ids.numel():
        raise ValueError(f"input_ids must be whole numbers, at least one, got {tuple(ids.shape)} of {ids.dtype}")
    ids = ids.long()
    if mask_values is None:
        is_padded = lengths is not None and min(lengths) < ids.shape[1]
        return ids, torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None] if is_padded else None
    mask, _ = _tensor(mask_values, "attention_mask")
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask must have an entry for each token, {tuple(ids.shape)} as input_ids, got "
            f"{tuple(mask.shape)}: give 1 for each token and 0 for padding"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"attention_mask must be 1 for each token and 0 for padding, got values from {mask.min().item():g} to "
            f"{mask.max().item():g}: documents in one row, or scores that are added, cannot be given by it"
        )
    return ids, mask.long()


def _tensor(values: object, name: str) -> tuple[Tensor, list[int] | None]:
    """Returns values as (documents, length), and the length of every document if they were given as lists."""
    try:
        if isinstance(values, Sequence) and values and not isinstance(values, str):
            rows = [torch.as_tensor(row) for row in (values if isinstance(values[0], Sequence | Tensor) else [values])]
            if all(row.ndim == 1 for row in rows):
                return pad_sequence(rows, batch_first=True), [len(row) for row in rows]
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} are no numbers, such as a tokenizer returns: got {values!r:.60}") from None
    if tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim != 2:
        raise ValueError(f"{name} must be (documents, length), got {tuple(tensor.shape)}")
    return tensor, None
