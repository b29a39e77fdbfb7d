"""Languages: their codes, and the English names that prompts call them by. languages.json has both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
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
        for codes in _table().values():
            if looked_for in codes:
                return codes[looked_for]
        looked_for = looked_for.rpartition("_")[0]
    raise ValueError(f"the language of {name!r} is unknown: give its English name in names, {{{code!r}: ...}}")


def language_codes(names: Iterable[str]) -> list[str]:
    """The ISO 639 codes in names: of two letters (fr, pt-BR), or of three with a script, as in FLORES (fra_Latn)."""
    found = []
    for name in names:
        if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", name):
            found.append(name[:3])
        elif (code := re.split("[-_]", name)[0]) in _table()["iso_639_1"]:
            found.append(code)
    return list(dict.fromkeys(found))


@cache
def _table() -> dict[str, dict[str, str]]:
    """{standard: {code: English name}}; "others": codes that models use and no standard has, and with a script or a country."""
    return json.loads(files("pymultiling.data").joinpath("languages.json").read_text("utf-8"))
