"""A warning of files without texts, which are easily overlooked among others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

NAMED = 5  # files that are named; of further ones the number is given


def warn_of_empty_files(empty: Sequence[str], count: int, label: str = "") -> None:
    """Warns that some, and not all, of the `count` files of a corpus have no texts.

    Args:
        empty: the names of the files without texts.
        count: how many files the corpus has.
        label: the beginning of the message, such as "fr: ".

    Warns:
        UserWarning: some of several files are empty.
    """
    if not 0 < len(empty) < count:
        return
    names = ", ".join(empty[:NAMED]) + (f" and {len(empty) - NAMED:,} more" if len(empty) > NAMED else "")
    verb = "has" if len(empty) == 1 else "have"
    warnings.warn(
        f"{label}{len(empty):,} of {count:,} files {verb} no texts, {names}: check whether they are complete",
        stacklevel=3,
    )
