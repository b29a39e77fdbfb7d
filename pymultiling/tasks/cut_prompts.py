"""Cutting prompts that exceed the model's positions at their beginning, after the tokens that open texts."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pymultiling.data.added_tokens import added_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def cut_beginning(tokens: list[int], count: int, limit: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Removes tokens of a prompt from its beginning, after those that the tokenizer puts before a text.

    Args:
        tokens: the prompt, which an answer may follow.
        count: how many tokens are removed, at most `limit`.
        limit: the number of tokens before the first one that has to stay. If the tokens before a text and `count` are
            more, those before a text are removed too.
        tokenizer: the model's tokenizer.
    """
    if count == 0:
        return tokens
    opening = added_tokens(tokenizer).before
    kept = len(opening) if tokens[: len(opening)] == opening and len(opening) + count <= limit else 0
    return tokens[:kept] + tokens[kept + count :]


def warn_about_cut_prompts(name: str, count: int, max_positions: int) -> None:
    """Warns that `count` prompts of the task `name` were cut."""
    warnings.warn(
        f"{name}: {count} prompts do not fit the model's {max_positions} positions and were cut at their beginning, "
        "which may change the results: use shorter prompts or fewer shots",
        stacklevel=2,
    )
