"""Tasks made of plain texts, for models that are too small for any other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task


def continuation(texts: Mapping[str, Sequence[str]], choices: int = 4, seed: int = 0) -> Task:
    """Which of several second halves belongs to the first half of a text, by the mean likelihood of its tokens.

    A text is parted between words (between characters where it has no spaces) in the middle; the wrong halves are those of
    other texts of its language, drawn with `seed`.

    Args:
        texts: {language: texts}; held-out ones.
        choices: second halves to choose from, the right one among them.
        seed: of the draws.

    Raises:
        CorpusError: a language has fewer different texts than choices.
    """
    items = {}
    for language, some in texts.items():
        halves = [half for half in map(_halves, dict.fromkeys(some)) if half is not None]
        if len({second for _, second in halves}) < choices:
            raise CorpusError(
                f"{language!r}: {choices} choices were looked for, there are {len({second for _, second in halves})} second halves"
            )
        draw, items[language] = random.Random(seed), []
        for first, second in halves:
            others = sorted({other for _, other in halves} - {second})
            offered = [second, *draw.sample(others, choices - 1)]
            draw.shuffle(offered)
            items[language].append(Item(first, second, tuple(offered)))
    return Task("continuation", items, "normalised accuracy")


def _halves(text: str) -> tuple[str, str] | None:
    middle = len(text) // 2
    spaces = [place for place, c in enumerate(text) if c == " " and 0 < place < len(text) - 1]
    cut = min(spaces, key=lambda place: abs(place - middle)) if spaces else middle
    return (text[:cut], text[cut:]) if 0 < cut < len(text) else None
