"""Prompts that a model has no room for lose their beginning, but not the token that opens texts."""

from __future__ import annotations

import warnings


def without_beginning(tokens: list[int], count: int, most: int, tokenizer) -> list[int]:
    """The tokens without `count` of their first, the opening one apart where there is one; at most `most` go."""
    opening = int(bool(tokens) and count > 0 and tokens[0] == tokenizer.bos_token_id and count < most)
    return tokens[:opening] + tokens[opening + count :]


def warn_of_cut(name: str, cut: int, room: int) -> None:
    warnings.warn(f"{name}: {cut} prompts do not fit the model's {room} positions and were cut at their beginning")
