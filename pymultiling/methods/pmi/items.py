"""Items and tasks for parallel multilingual input: texts in several languages, and correct answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from pymultiling.runtime.short_repr import short_repr

ParallelMetric: TypeAlias = Literal["bleu", "number", "label"]
METRICS: tuple[ParallelMetric, ...] = get_args(ParallelMetric)


@dataclass(frozen=True)
class ParallelItem:
    """One question in several languages.

    Attributes:
        texts: {name of an input: {field: text}}. A name is a language's code. If the input was made from another one,
            "~" and how it was made follow: "de", "de~1" (a paraphrase), "de~fr" (German by way of French).
        references: correct answers.
    """

    texts: Mapping[str, Mapping[str, str]]
    references: tuple[str, ...]

    def __repr__(self) -> str:
        return short_repr(self)


@dataclass(frozen=True)
class ParallelTask:
    """Questions of one kind, and the metric that evaluates their answers.

    Attributes:
        name: the name of the task.
        template: the template of the prompts: a name or a path, as in `prompt`.
        items: the questions.
        metric: "bleu" (BLEU and chrF), "number" (the last number is correct) or "label" (the first label is correct).
        labels: the answers to choose from, which the metric "label" needs.
        stop: strings that end a generated answer.
        max_new_tokens: the largest number of tokens of a generated answer.

    Raises:
        ValueError: the metric is unknown, or the metric "label" has no labels.
    """

    name: str
    template: str
    items: list[ParallelItem]
    metric: ParallelMetric
    labels: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256

    def __repr__(self) -> str:
        return short_repr(self)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if isinstance(self.labels, str):
            raise ValueError(f"labels must be a list of words, got the plain string {self.labels!r}")
        if self.metric == "label" and not self.labels:
            raise ValueError("metric 'label' needs labels=, the answers to choose from")

    def only(self, limit: int | None = None) -> ParallelTask:
        """Returns the task with its first items.

        Args:
            limit: the number of items; None: all of them.

        Returns:
            A new task that is otherwise equal.
        """
        return dataclasses.replace(self, items=self.items[:limit])
