"""English names of languages, which prompts call them by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


def language_name(name: str, names: Mapping[str, str] | None = None) -> str:
    """The English name of an input's language.

    Args:
        name: of the input: a code of ISO 639-1 or 639-3, with or without a script or a country ("de", "deu", "deu_Latn",
            "pt-BR"), and what comes after "~" ("de~fr"), which does not matter here.
        names: {code: name}, looked at first.

    Raises:
        ValueError: the code is unknown.
    """
    code = name.partition("~")[0]
    if names and code in names:
        return names[code]
    looked_for = code.lower().replace("-", "_")
    while looked_for:
        if looked_for in _names():
            return _names()[looked_for]
        looked_for = looked_for.rpartition("_")[0]
    raise ValueError(f"the language of {name!r} is unknown: give its English name in names, {{{code!r}: ...}}")


@cache
def _names() -> dict[str, str]:
    return json.loads(files("pymultiling.methods.pmi").joinpath("languages.json").read_text("utf-8"))
