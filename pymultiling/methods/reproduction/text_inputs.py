"""Texts and tasks that a reproduction reads before the model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymultiling.data.corpora import TEXT
from pymultiling.data.languages import match_language
from pymultiling.data.shards import check_first_record, shards_of
from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.plan import Notes
from pymultiling.tasks import Task
from pymultiling.tasks.metrics import METRICS, Metric


@dataclass(frozen=True)
class Inputs:
    """What is read before the model is loaded.

    Attributes:
        english: the name of English.
        texts: {language: file}, for the detection; English first.
        heldout: {language: file}, for perplexity.
        tasks: the tasks, with the languages that have texts.
        files: all files, by what they are, for the record of the run.
        notes: what is known to differ from the paper by now.
    """

    english: str
    texts: dict[str, Path]
    heldout: dict[str, Path]
    tasks: list[Task]
    files: dict[str, Path]
    notes: Notes


def check_metric(metric: Metric | None) -> None:
    """Raises ValueError if there is no such metric."""
    if metric is not None and metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def read_tasks(
    folder: DataFolder,
    published: Iterable[tuple[str, tuple[str, ...], Callable[..., Task]]],
    names: Sequence[str] | None,
    where: str,
    notes: Notes,
) -> tuple[str, list[str], list[Task], dict[str, Path]]:
    """Finds the languages, and reads the tasks that the folder has.

    Args:
        folder: the data folder.
        published: (name, names of its files, what makes a task of them) of the paper's tasks.
        names: the languages to take; None: all that have texts and held-out texts, and, if there are tasks, items.
        where: where the paper has them, for the notes.
        notes: get what is left out.

    Returns:
        The name of English, the languages of the run, the tasks in English and at least one other of the languages, and
        their files by name.

    Raises:
        CorpusError: something is missing, or a file cannot be read.
    """
    english = match_language("en", folder.corpora) or "en"
    languages = folder.languages(names, english)
    tasks: list[Task] = []
    files: dict[str, Path] = {}
    for name, stems, make in published:
        found = folder.task(*stems)
        if found is None:
            needed = " with ".join(f"tasks/{stem}.jsonl" for stem in stems)
            notes.left_out.append(f"{name} {where}: the data folder has no {needed}")
            continue
        task = _with_languages(make(*map(str, found)), languages)
        if english not in task.items or len(task.items) < 2:
            notes.left_out.append(f"{name} {where}: it needs English and another of {', '.join(languages)}")
            continue
        tasks.append(task)
        files |= dict(zip(stems, found))
    if names is None and tasks:  # each other language would only lengthen the run
        languages = [language for language in languages if any(language in task.items for task in tasks)]
    return english, languages, tasks, files


def text_files(folder: DataFolder, languages: Sequence[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Returns the files of texts and of held-out texts, after a look at the first record of each."""
    texts = {language: folder.corpora[language] for language in languages}
    heldout = {language: folder.heldout[language] for language in languages}
    for file in (*texts.values(), *heldout.values()):
        check_first_record(shards_of(str(file)), TEXT)
    return texts, heldout


def all_files(texts: Mapping[str, Path], heldout: Mapping[str, Path], tasks: Mapping[str, Path]) -> dict[str, Path]:
    """Returns all files by what they are."""
    return {**tasks, **{f"{name}, heldout": file for name, file in heldout.items()}, **texts}


def judge_all(tasks: Sequence[Task], metric: Metric | None, notes: Notes) -> list[Task]:
    """Returns the tasks with the metric, if there is one, and notes it."""
    if metric is None:
        return list(tasks)
    notes.departures.append(f"metric: {metric}, and not each task's own")
    return [task.judged_by(metric) for task in tasks]


def _with_languages(task: Task, languages: Sequence[str]) -> Task:
    """Returns the task in these languages, by these names."""
    names = {language: match_language(language, task.items) for language in languages}
    return dataclasses.replace(
        task, items={language: task.items[name] for language, name in names.items() if name is not None}
    )
