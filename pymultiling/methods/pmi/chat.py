"""Chat models: their prompts, and the thinking that some of them write before an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pymultiling.data.added_tokens import encode_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING_START, THINKING_END = "<think>", "</think>"
Message: TypeAlias = dict[str, str]  # {"role": "user", "content": text}


def tokenise_messages(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """Returns the tokens of messages in the tokenizer's chat template, up to the beginning of the answer.

    The template is told to disable thinking; templates ignore options that they do not know.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert isinstance(text, str)  # tokens are returned with tokenize=True only
    return encode_alone(tokenizer, text)


def strip_thinking(answer: str) -> tuple[str, bool]:
    """Removes <think>...</think> from the beginning of an answer.

    Some templates write <think> in the prompt, so that the answer has only </think>.

    Returns:
        The answer, which is empty if the thinking does not end; and whether the thinking ends, True if there is none.
    """
    thinking, end, rest = answer.partition(THINKING_END)
    begins_with_thinking = thinking.lstrip().startswith(THINKING_START)
    if not end:
        return ("", False) if begins_with_thinking else (answer, True)
    if not begins_with_thinking and THINKING_START in thinking:  # both marks are a part of the text
        return answer, True
    return rest.lstrip(), True
