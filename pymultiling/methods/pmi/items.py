"""What parallel multilingual input is tried on: the same text in several languages, and right answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

METRICS = ("bleu", "number", "label")


@dataclass(frozen=True)
class ParallelItem:
    """One question in several languages.

    Attributes:
        texts: {name of an input: {field: text}}. A name is a language's code, followed by "~" and how the input was made where
            that matters: "de", "de~1" (a paraphrase), "de~fr" (German by way of French).
        references: right answers.
    """

    texts: Mapping[str, Mapping[str, str]]
    references: tuple[str, ...]


@dataclass(frozen=True)
class ParallelTask:
    """Questions of one kind, and how their answers are scored.

    Attributes:
        name: of the task.
        template: the prompts' template, a name or a path as `prompt` takes it.
        items: the questions.
        metric: "bleu", "number" or "label".
        labels: the answers to choose from, which the metric "label" needs.
        stop: strings that end a generated answer.
        max_new_tokens: of a generated answer.

    Raises:
        ValueError: the metric is another one, or has no labels where it needs them.
    """

    name: str
    template: str
    items: list[ParallelItem]
    metric: str
    labels: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if isinstance(self.labels, str):
            raise ValueError(f"labels must be a list of words, got the plain string {self.labels!r}")
        if self.metric == "label" and not self.labels:
            raise ValueError("metric 'label' needs labels=, the answers to choose from")

    def only(self, limit: int | None = None) -> ParallelTask:
        """The task with its first `limit` items (None: all of them)."""
        return dataclasses.replace(self, items=self.items[:limit])
