"""Answers of models that think aloud before they answer."""

from __future__ import annotations

OPENS, CLOSES = "<think>", "</think>"


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
