"""What the chat template of a tokenizer puts around a message, as text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymultiling.errors import type_and_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = "PYMULTILING"  # a message that occurs in no template
RULE = "texts as messages of the chat template"  # in the rule of statistics that were measured with a template


@dataclass(frozen=True)
class ChatFrame:
    """What a chat template puts around a message of the user.

    It is found once for a run, since some templates contain the date.

    Attributes:
        before: the text before the message, with the beginning-of-text token if the template has one, a system message
            if the template has one by default, and the mark of the user's turn.
        after: the text between the message and the answer of the model.
        strips: whether the template removes white space around the message.
    """

    before: str
    after: str
    strips: bool

    def opened(self, message: str) -> str:
        """Returns the conversation up to the end of the message."""
        return self.before + (message.strip() if self.strips else message)

    def prompt(self, message: str) -> str:
        """Returns the conversation up to the beginning of the answer."""
        return self.opened(message) + self.after

    @property
    def hash(self) -> str:
        """A hash of the frame, which identifies it in a checkpoint."""
        return hashlib.blake2b(repr((self.before, self.after, self.strips)).encode(), digest_size=8).hexdigest()


def chat_frame(tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
    """Returns what the chat template of a tokenizer puts around a message of the user.

    The template is told to disable thinking; templates ignore options that they do not know.

    Args:
        tokenizer: a Hugging Face tokenizer.

    Raises:
        ValueError: the tokenizer has no chat template, or the template does not have the message in it.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "the tokenizer has no chat template, as those of models that are not tuned to follow instructions: leave "
            "out chat_template (--chat-template), or set tokenizer.chat_template"
        )
    before, found, after = _render(tokenizer, SAMPLE).partition(SAMPLE)
    if not found or SAMPLE in after:
        raise ValueError(
            "the tokenizer's chat template does not have the user's message in it once: leave out chat_template "
            "(--chat-template), or set tokenizer.chat_template to another one"
        )
    strips = _render(tokenizer, f" {SAMPLE} ") == before + SAMPLE + after
    return ChatFrame(before, after, strips)


def _render(tokenizer: PreTrainedTokenizerBase, message: str) -> str:
    messages = [{"role": "user", "content": message}]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except Exception as error:  # a template is a program
        raise ValueError(
            f"the tokenizer's chat template fails for a message of the user ({type_and_text(error)}): leave out "
            "chat_template (--chat-template), or set tokenizer.chat_template to another one"
        ) from error
    assert isinstance(rendered, str)  # tokens are returned with tokenize=True only
    return rendered
