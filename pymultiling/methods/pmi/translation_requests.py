"""What is asked for to make parallel inputs: a translation, or the same in other words. The wording is in requests.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pymultiling.data.languages import language_name


@dataclass(frozen=True)
class Request:
    """One text, and what is to be made of it.

    Attributes:
        text: what is given.
        source: its language's code.
        target: the language's code that a translation is asked for; None: the same is asked for in other words.
        earlier: other words that there are already.
        names: {code: English name}, as `language_name` takes it.
    """

    text: str
    source: str
    target: str | None = None
    earlier: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None

    def messages(self) -> list[dict[str, str]]:
        """For a model that is talked to."""
        return [{"role": "user", "content": self._worded("chat")}]

    def plain(self) -> str:
        """For a model that continues texts; the answer ends with the line."""
        return self._worded("plain")

    def _worded(self, form: str) -> str:
        kind = "translation" if self.target else "another paraphrase" if self.earlier else "paraphrase"
        return _wording()[kind][form].format_map(
            {
                "text": self.text,
                "source": language_name(self.source, self.names),
                "target": language_name(self.target, self.names) if self.target else "",
                "earlier": "\n".join(_wording()["earlier"].format(version=version) for version in self.earlier),
            }
        )


@cache
def _wording() -> dict:
    return json.loads(files("pymultiling.methods.pmi").joinpath("requests.json").read_text("utf-8"))


def shortly(text: str) -> str:
    """A text in a message."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
