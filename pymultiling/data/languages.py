"""Language codes and the English names that prompts use for them. The table is languages.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files


def language_name(name: str, names: Mapping[str, str] | None = None) -> str:
    """Returns the English name of a language.

    Args:
        name: a code of ISO 639-1 or 639-3, with or without a script or a country: "de", "deu", "deu_Latn", "pt-BR". In
            the name of an input, everything from "~" on is ignored ("de~fr").
        names: {code: name}, which take precedence.

    Returns:
        The name, such as "German".

    Raises:
        ValueError: the code is unknown.
    """
    code = name.partition("~")[0]
    if names and code in names:
        return names[code]
    key = code.lower().replace("-", "_")
    while key:  # without country and script in turn
        for codes in _table().values():
            if key in codes:
                return codes[key]
        key = key.rpartition("_")[0]
    raise ValueError(f"the language of {name!r} is unknown: give its English name in names, {{{code!r}: ...}}")


def language_codes(names: Iterable[str]) -> list[str]:
    """Returns the ISO 639 codes among names, each once.

    A name is a code of two letters (fr, pt-BR), or of three letters with a script, as in FLORES (fra_Latn). Other names
    are ignored.
    """
    codes = []
    for name in names:
        if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", name):
            codes.append(name[:3])
        elif (code := re.split("[-_]", name)[0]) in _table()["iso_639_1"]:
            codes.append(code)
    return list(dict.fromkeys(codes))


@cache
def _table() -> dict[str, dict[str, str]]:
    """Returns {standard: {code: English name}}.

    "others" has codes that translation models use and that are in neither standard, such as "ns", and codes with a
    script or a country.
    """
    table: dict[str, dict[str, str]] = json.loads(
        files("pymultiling.data").joinpath("languages.json").read_text("utf-8")
    )
    return table
