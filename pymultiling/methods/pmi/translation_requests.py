"""Requests for parallel inputs: a translation or a paraphrase of a text. requests.json has their wording."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias, TypedDict

from pymultiling.data.languages import language_name
from pymultiling.methods.pmi.chat import Message

Kind: TypeAlias = Literal["translation", "paraphrase", "another paraphrase"]
Style: TypeAlias = Literal["chat", "plain"]


class Wording(TypedDict):
    """The wording of one kind of request, with {placeholders}."""

    chat: str
    plain: str


# The content of requests.json; "earlier" is the wording of one earlier paraphrase.
Wordings = TypedDict(
    "Wordings", {"translation": Wording, "paraphrase": Wording, "another paraphrase": Wording, "earlier": str}
)


@dataclass(frozen=True)
class Request:
    """A text, and what a model is asked to make of it.

    Attributes:
        text: the text.
        source: the code of its language.
        target: the code of the language to translate into; None: a paraphrase is asked for.
        earlier: paraphrases that exist already.
        names: {code: English name}, as in `language_name`.
    """

    text: str
    source: str
    target: str | None = None
    earlier: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None

    def messages(self) -> list[Message]:
        """Returns the request as messages to a chat model."""
        return [{"role": "user", "content": self._fill_wording("chat")}]

    def plain(self) -> str:
        """Returns the request as the beginning of a text; the rest of its last line is the answer."""
        return self._fill_wording("plain")

    def _fill_wording(self, style: Style) -> str:
        kind: Kind = "translation" if self.target else "another paraphrase" if self.earlier else "paraphrase"
        wordings = _load_wordings()
        return wordings[kind][style].format_map(
            {
                "text": self.text,
                "source": language_name(self.source, self.names),
                "target": language_name(self.target, self.names) if self.target else "",
                "earlier": "\n".join(wordings["earlier"].format(version=version) for version in self.earlier),
            }
        )


@cache
def _load_wordings() -> Wordings:
    wordings: Wordings = json.loads(files("pymultiling.methods.pmi").joinpath("requests.json").read_text("utf-8"))
    return wordings


def abbreviate(text: str) -> str:
    """Returns a text in quotes for a message, cut after 60 characters."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
