"""Models that are talked to, some of which think aloud before they answer."""

from __future__ import annotations

OPENS, CLOSES = "<think>", "</think>"


def message_tokens(tokenizer, messages: list[dict[str, str]]) -> list[int]:
    """Messages in the tokenizer's chat template, up to where the answer begins; thinking is asked to be left out."""
    options = {"add_generation_prompt": True, "enable_thinking": False}  # templates ignore what they do not know
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def without_thinking(answer: str) -> tuple[str, bool]:
    """The answer without the <think>...</think> that it begins with, and whether that came to its end.

    Some templates open it in the prompt, and the answer only closes it. Where it is never closed, there is no answer.
    """
    thinking, closed, rest = answer.partition(CLOSES)
    opens = thinking.lstrip().startswith(OPENS)
    if not closed:
        return ("", False) if opens else (answer, True)
    if not opens and OPENS in thinking:  # they are a part of the text
        return answer, True
    return rest.lstrip(), True
