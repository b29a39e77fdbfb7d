"""Items and tasks: prompts, their answers, and the metric that evaluates them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from pymultiling.errors import CorpusError
from pymultiling.runtime.short_repr import short_repr
from pymultiling.tasks.metrics import Metric


@dataclass(frozen=True)
class Item:
    """One question of a task.

    Attributes:
        prompt: the text that the model is given.
        answer: the gold answer as it follows the prompt, including its leading space.
        choices: the answers to choose from, including the gold one; empty for a task without choices.
        references: correct answers that a generated answer is compared with; empty for a task that generates no
            answers.
    """

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True)
class Task:
    """Items in one or more languages, and the metric that evaluates them.

    Attributes:
        name: the name of the task, for tables and messages.
        items: {language: its items}.
        metric: one of `pymultiling.tasks.METRICS`. The metric "likelihood" works for every task.
        stop: strings that end a generated answer.
        max_new_tokens: the largest number of tokens of a generated answer.
    """

    name: str
    items: dict[str, list[Item]]
    metric: Metric
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 0

    def __repr__(self) -> str:
        return short_repr(self)

    def only(self, languages: Iterable[str] | None = None, limit: int | None = None) -> Task:
        """Returns the task with some of its languages or items.

        Args:
            languages: the languages to keep; None: all of them.
            limit: the number of items to keep in each language, from the first on; None: all of them.

        Returns:
            A new task with the same name, metric and generation options.

        Raises:
            CorpusError: the task has no items in one of the languages.
        """
        languages = list(self.items if languages is None else languages)
        for language in languages:
            if not self.items.get(language):
                raise CorpusError(f"task {self.name} has no items in {language!r}, only in {', '.join(self.items)}")
        return dataclasses.replace(self, items={language: self.items[language][:limit] for language in languages})

    def judged_by(self, metric: Metric) -> Task:
        """Returns the task with another metric.

        Args:
            metric: one of `pymultiling.tasks.METRICS`.

        Returns:
            A new task with the same items.
        """
        return dataclasses.replace(self, metric=metric)
