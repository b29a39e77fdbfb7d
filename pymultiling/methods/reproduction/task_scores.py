"""Tasks with sets of neurons off, item by item, and how certain the scores are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from pymultiling.mathematics.bootstrap import resampling_weights
from pymultiling.methods.reproduction.measured import sets_digest
from pymultiling.methods.reproduction.plan import Setup, Stream, interval_ends
from pymultiling.neurons.sets import NeuronSet
from pymultiling.tasks import Task
from pymultiling.tasks.evaluate import metric_values


def task_stream(setup: Setup, task: Task, language: str, sets: Sequence[NeuronSet], name: str, count: int) -> Stream:
    """Returns the stream of a task's items in a language, each without and with each of the sets off.

    Args:
        setup: the model, and where the values are kept.
        task: the task.
        language: the language of the items.
        sets: the sets.
        name: what is measured; the values' name is this, the language and a digest of the sets.
        count: the number of items.
    """

    def measure(start: int, stop: int) -> Tensor:
        part = dataclasses.replace(task, items={language: task.items[language][start:stop]})
        return metric_values(
            setup.model, setup.tokenizer, part, language, [None, *sets], batch_tokens=setup.batch_tokens
        )

    return Stream(f"{name}.{language}.{sets_digest(sets)}", count, measure)


def score_rows(task: Task, language: str, columns: Mapping[str, Tensor]) -> list[tuple[object, ...]]:
    """Returns a row of a table of scores for each choice of neurons that are off.

    Args:
        task: the task.
        language: the language of the items.
        columns: {what is off: (items, sets) values}; the score is the mean over both.

    Returns:
        Rows (task, metric, language, what is off, score, low, high, items).
    """
    rows: list[tuple[object, ...]] = []
    for name, values in columns.items():
        of_item = values.mean(1)
        weights = resampling_weights(len(of_item))  # the same draws for all columns
        low, high = interval_ends(weights @ of_item, len(of_item))
        rows.append((task.name, task.metric, language, name, of_item.mean().item(), low, high, len(of_item)))
    return rows
