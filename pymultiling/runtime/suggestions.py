"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" with the most similar known name, or "" if none is similar."""
    # Of a code of two letters, one letter is half.
    similar = get_close_matches(name, list(known), n=1, cutoff=0.5 if len(name) <= 3 else 0.6)
    return f"; did you mean {similar[0]}?" if similar else ""
