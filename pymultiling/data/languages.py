"""Language codes and the English names that prompts use for them. The table is languages.json."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

from pymultiling.errors import CorpusError
from pymultiling.runtime.suggestions import did_you_mean

_logger = logging.getLogger(__name__)


def language_name(name: str, names: Mapping[str, str] | None = None) -> str:
    """Returns the English name of a language.

    Args:
        name: a code of ISO 639-1 or 639-3, with or without a script or a country: "de", "deu", "deu_Latn", "pt-BR"; or
            the English name. In the name of an input, everything from "~" on is ignored ("de~fr").
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
    if (english_name := _english_names().get(code.lower())) is not None:
        return english_name
    suggestion = did_you_mean(code.title(), _english_names().values())
    raise ValueError(
        f"the language of {name!r} is unknown: give its English name in names, {{{code!r}: ...}}{suggestion}"
    )


def match_language(name: str, known: Iterable[str]) -> str | None:
    """Returns which of the known names means the same language, or None if none or several do.

    The same name comes first. Otherwise codes of two letters, codes of three letters (as in FLORES) and English names
    are compared by their language: "fr", "fra_Latn" and "French" are one.
    """
    known = list(known)
    if name in known or "~" in name:  # "de~fr" is no text of people, and no other name of German
        return name if name in known else None
    try:
        language = language_name(name)
    except ValueError:
        return None
    matches = [other for other in known if _same_language(other, language)]
    return matches[0] if len(matches) == 1 else None


def find_language(name: str, known: Iterable[str], where: object) -> str:
    """Returns which of the known names means the language, as `match_language` does, and logs it if it is another name.

    Args:
        name: a name of a language.
        known: the names of languages in a file.
        where: the file, for the messages.

    Raises:
        CorpusError: none of them does, or several do.
    """
    known = list(known)
    found = match_language(name, known)
    if found is None:
        raise CorpusError(
            f"{where} has no language {name!r}: its languages are {', '.join(known)}{did_you_mean(name, known)}"
        )
    if found != name:
        _logger.info("%s is understood as %s of %s", name, found, where)
    return found


def _same_language(name: str, language: str) -> bool:
    try:
        return "~" not in name and language_name(name) == language
    except ValueError:
        return False


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
def _english_names() -> dict[str, str]:
    """Returns {name in small letters: name}."""
    return {name.lower(): name for codes in _table().values() for name in codes.values()}


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
