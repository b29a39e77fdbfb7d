"""Tasks with a language's neurons off in parts of the model, item by item, and how certain the changes are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy
import torch
from torch import Tensor

from pymultiling.data.languages import match_language
from pymultiling.mathematics.bootstrap import resampling_weights
from pymultiling.methods.mwork import ANYWHERE, OWN, PARTS, SETTINGS, Setting, parts, setting_rows
from pymultiling.methods.mwork_search import MWorkSearch, search_result, search_trials
from pymultiling.methods.reproduction.plan import Setup, Stream, Tables, TimeLimit, interval_ends, measure_evenly
from pymultiling.methods.reproduction.task_scores import score_rows, task_stream
from pymultiling.methods.reproduction.text_inputs import Inputs
from pymultiling.models.decoder import Decoder
from pymultiling.neurons.sets import NeuronSet
from pymultiling.tasks import Task

SEARCH = 200  # the most items for the search of the parts
PAPER_LANGUAGE = "zh"  # of the search


def find_parts(
    setup: Setup, inputs: Inputs, specific: Mapping[str, NeuronSet], limit: TimeLimit, tables: Tables
) -> MWorkSearch:
    """Finds the parts of the model on the first task, in Chinese as the paper does, if the task has it.

    Args:
        setup: the model, and where the values are kept.
        inputs: tasks; its notes get what is other than in the paper.
        specific: {language: its neurons}.
        limit: the time that it may take; one item is measured in any case.
        tables: gets the row of `samples`.

    Returns:
        As `mwork_search`.

    Raises:
        NonFiniteActivations: as `mwork_search`.
    """
    task, english = inputs.tasks[0], inputs.english
    others = [language for language in task.items if language != english]
    language = match_language(PAPER_LANGUAGE, others) or others[0]
    if task.name != "XQuAD" or match_language(PAPER_LANGUAGE, [language]) is None:
        inputs.notes.departures.append(
            f"search of the parts: the paper uses XQuAD in Chinese, here {task.name} in {language}"
        )
    trials = search_trials(len(Decoder(setup.model).layers))
    sets = [specific[language].layers(span.start, span.stop) for _, span in trials]
    streams = _pair(setup, task, (english, language), sets, "search", SEARCH)
    measure_evenly("search", streams, setup.measured, limit, at_least=1, progress=setup.progress)
    values = [setup.measured.values(stream.name) for stream in streams]
    tables.samples.append((f"search, {task.name}", language, len(values[1]), streams[1].count))
    return search_result(trials, torch.stack([of_text.mean(0) for of_text in values]))


def measure_task(
    setup: Setup,
    task: Task,
    english: str,
    specific: Mapping[str, NeuronSet],
    search: MWorkSearch,
    seeds: Sequence[int],
    limit: TimeLimit,
    tables: Tables,
) -> str | None:
    """Measures a task with neurons off by part.

    Args:
        setup: the model, and where the values are kept.
        task: the task.
        english: the name of English.
        specific: {language: its neurons}.
        search: the parts of the model.
        seeds: seeds of the random sets.
        limit: the time that it may take.
        tables: gets the rows of `table1`, `mwork` and `samples`.

    Returns:
        None, or why not one item was measured.

    Raises:
        NonFiniteActivations: as `mwork`.
    """
    languages = [language for language in task.items if language != english]
    pairs: dict[str, list[Stream]] = {}
    counts: list[list[int]] = []
    for language in languages:
        by_part = parts(specific[language], search.understanding, search.generation)
        sets = [setting.sets(by_part, seeds) for setting in SETTINGS]
        counts.append([len(setting_sets[0]) for setting_sets in sets])
        pairs[language] = _pair(setup, task, (english, language), list(chain.from_iterable(sets)), "task")
    streams = list(chain.from_iterable(pairs.values()))
    reason = measure_evenly(task.name, streams, setup.measured, limit, progress=setup.progress)
    items = min(setup.measured.count(stream.name) for stream in streams)
    if items == 0:
        return reason
    values = {
        language: torch.stack([setup.measured.values(stream.name)[:items] for stream in pair])
        for language, pair in pairs.items()
    }  # each (2, items, 1 + sets)
    for language in languages:
        tables.samples.append((task.name, language, items, streams[0].count))
    means = torch.stack([of_language.mean(1) for of_language in values.values()]).mean(0)
    rows = setting_rows(task, SETTINGS, means, numpy.mean(counts, axis=0).tolist(), seeds)
    deltas = _deltas(values, seeds)
    weights = resampling_weights(items)
    ends = [(math.nan, math.nan), *(interval_ends(weights @ of_item, items) for of_item in deltas)]
    for row, (low, high) in zip(rows, ends, strict=True):
        tables.mwork.append(row | {"delta_low": low, "delta_high": high, "items": items})
    for language, of_language in values.items():
        tables.table1 += _table1_rows(task, language, of_language[1], seeds)
    return None


def _pair(
    setup: Setup, task: Task, texts: tuple[str, str], sets: Sequence[NeuronSet], use: str, most: int | None = None
) -> list[Stream]:
    """Returns the streams of a task in English and in a language (texts), without and with each of its sets off."""
    count = min(len(items) for items in task.items.values())
    count = count if most is None else min(count, most)
    metric = task.metric.replace(" ", "-")
    name = f"{use}.{task.name}.{metric}.{texts[1]}"
    return [task_stream(setup, task, text, sets, name, count) for text in texts]


def _deltas(values: Mapping[str, Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """Returns delta of every item, (items,), for each of the settings: a mean over languages and random sets."""
    changes = torch.stack([of_language - of_language[:, :, :1] for of_language in values.values()]).mean(0)[:, :, 1:]
    sizes = [1 if setting.neurons == OWN else len(seeds) for setting in SETTINGS]
    return [(part[0] - part[1]).mean(1) for part in torch.split(changes, sizes, dim=2)]


def _table1_rows(task: Task, language: str, values: Tensor, seeds: Sequence[int]) -> list[tuple[object, ...]]:
    """Returns the rows of table 1: the model as it is, with all own neurons off, and with as many random ones off.

    values: (items, 1 + sets), those of the language.
    """
    sizes = [1 if setting.neurons == OWN else len(seeds) for setting in SETTINGS]
    by_setting = dict(zip(SETTINGS, torch.split(values[:, 1:], sizes, dim=1)))
    columns = {
        "none": values[:, :1],
        "random": by_setting[Setting(PARTS, ANYWHERE)],
        "own": by_setting[Setting(PARTS, OWN)],
    }
    return score_rows(task, language, columns)
