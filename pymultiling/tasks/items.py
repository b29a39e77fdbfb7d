"""What a task is made of: prompts, and the answers that belong to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from pymultiling.errors import CorpusError


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        prompt: what the model is given.
        answer: the gold answer as it would follow the prompt, its leading space included.
        choices: answers to choose from, the gold one among them; none for a task without choices.
        references: right answers that a generated one is compared with; none for a task that generates nothing.
    """

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Items of several languages, and how they are scored.

    Attributes:
        name: of the task.
        items: {language: list of Item}.
        metric: a name in `pymultiling.tasks.METRICS`; "likelihood" serves any task.
        stop: strings that end a generated answer.
        max_new_tokens: of a generated answer.
    """

    name: str
    items: dict[str, list[Item]]
    metric: str
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 0

    def only(self, languages: Iterable[str] | None = None, limit: int | None = None) -> Task:
        """The task in these languages (None: all it has), of each the first `limit` items.

        Raises:
            CorpusError: it has no such language.
        """
        languages = list(self.items if languages is None else languages)
        for language in languages:
            if not self.items.get(language):
                raise CorpusError(f"task {self.name} has no items in {language!r}, only in {', '.join(self.items)}")
        return dataclasses.replace(self, items={language: self.items[language][:limit] for language in languages})

    def judged_by(self, metric: str) -> Task:
        """The same items scored by another metric."""
        return dataclasses.replace(self, metric=metric)
