"""Cutting prompts that exceed the model's positions at their beginning, after the token that opens texts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_beginning(tokens: list[int], count: int, limit: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Removes `count` of the first `limit` tokens; a beginning-of-text token stays if `count` is less than `limit`."""
    opening = int(bool(tokens) and count > 0 and tokens[0] == tokenizer.bos_token_id and count < limit)
    return tokens[:opening] + tokens[opening + count :]


def warn_about_cut_prompts(name: str, count: int, max_positions: int) -> None:
    """Warns that `count` prompts of the task `name` were cut."""
    warnings.warn(
        f"{name}: {count} prompts do not fit the model's {max_positions} positions and were cut at their beginning",
        stacklevel=2,
    )
