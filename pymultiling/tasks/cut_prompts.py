"""Cutting prompts that exceed the model's positions at their beginning, after the token that opens texts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_beginning(tokens: list[int], count: int, limit: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Removes tokens of a prompt from its beginning, after a beginning-of-text token.

    Args:
        tokens: the prompt, which an answer may follow.
        count: how many tokens are removed, at most `limit`.
        limit: the number of tokens before the first one that has to stay. If `count` is `limit`, the beginning-of-text
            token is removed too.
        tokenizer: the model's tokenizer.
    """
    opening = int(bool(tokens) and count > 0 and tokens[0] == tokenizer.bos_token_id and count < limit)
    return tokens[:opening] + tokens[opening + count :]


def warn_about_cut_prompts(name: str, count: int, max_positions: int) -> None:
    """Warns that `count` prompts of the task `name` were cut."""
    warnings.warn(
        f"{name}: {count} prompts do not fit the model's {max_positions} positions and were cut at their beginning, "
        "which may change the results: use shorter prompts or fewer shots",
        stacklevel=2,
    )
