"""The tokens that a tokenizer puts before and after a text, and texts without those after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = "a"


class AddedTokens(NamedTuple):
    """The tokens that a tokenizer puts around every text.

    Attributes:
        before: those before a text, such as <s>; GLM has two, XGLM has </s>.
        after: those after a text. Most decoders have none.
    """

    before: list[int]
    after: list[int]


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> AddedTokens:
    """Returns what a tokenizer puts around a text, found by a text that is tokenised with and without it."""
    whole: list[int] = tokenizer(SAMPLE, verbose=False)["input_ids"]
    text = encode_alone(tokenizer, SAMPLE)
    starts = range(len(whole) - len(text) + 1)
    start = next((start for start in starts if whole[start : start + len(text)] == text), 0)
    return AddedTokens(whole[:start], whole[start + len(text) :])


def encode_alone(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the tokens of a text, without those that the tokenizer adds."""
    tokens: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tokens


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Returns the tokens of a text that goes on: those before it and its own.

    A token of the end of a text would stand in the middle of what the model reads, so it is left out.
    """
    return added_tokens(tokenizer).before + encode_alone(tokenizer, text)
