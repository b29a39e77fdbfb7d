"""A task made of plain texts, for models that are too small for the published tasks."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pymultiling.data.corpora import CorpusReport, read_texts
from pymultiling.errors import CorpusError
from pymultiling.tasks.items import Item, Task

if TYPE_CHECKING:
    from pymultiling.data.corpus_types import Corpus


def continuation(texts: Mapping[str, Corpus], choices: int = 4, seed: int = 0) -> Task:
    """Makes a task: choose the second half of a text by the mean log-likelihood of its tokens.

    A text is split in the middle, between words, or between characters if it has no spaces. The wrong choices are
    second halves of other texts in the same language, drawn with `seed`.

    Args:
        texts: {language: texts}, each as one corpus of `detect`; use held-out texts.
        choices: the number of second halves to choose from, including the correct one.
        seed: the seed of the random draws.

    Returns:
        A task with the metric "normalised accuracy".

    Raises:
        CorpusError: texts cannot be read, or a language has fewer different second halves than `choices`.
    """
    items: dict[str, list[Item]] = {}
    for language, language_texts in texts.items():
        different_texts = dict.fromkeys(read_texts(language_texts, CorpusReport()))
        halves = [half for half in map(_split_in_halves, different_texts) if half is not None]
        second_halves = {second for _, second in halves}
        if len(second_halves) < choices:
            raise CorpusError(
                f"{language!r} has {len(second_halves)} different second halves of texts, too few for {choices} "
                "choices: give more texts or fewer choices"
            )
        generator, items[language] = random.Random(seed), []
        for first, second in halves:
            wrong = sorted(second_halves - {second})
            offered = [second, *generator.sample(wrong, choices - 1)]
            generator.shuffle(offered)
            items[language].append(Item(first, second, tuple(offered)))
    return Task("continuation", items, "normalised accuracy")


def _split_in_halves(text: str) -> tuple[str, str] | None:
    """Splits a text at the space nearest to its middle, or in the middle if there are no spaces.

    The space belongs to the second half. Returns None if a half would be empty.
    """
    middle = len(text) // 2
    spaces = [index for index, c in enumerate(text) if c == " " and 0 < index < len(text) - 1]
    cut = min(spaces, key=lambda index: abs(index - middle)) if spaces else middle
    return (text[:cut], text[cut:]) if 0 < cut < len(text) else None
