"""What the tables of arXiv 2402.18815 are made from: texts, tasks, and what is known to be other than in the paper."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymultiling.data.corpora import TEXT
from pymultiling.data.languages import match_language
from pymultiling.data.shards import check_first_record, shards_of
from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.plan import Notes
from pymultiling.tasks import Task, continuation, mgsm, xcsqa, xlsum, xquad
from pymultiling.tasks.metrics import METRICS, Metric

TASKS: tuple[tuple[str, tuple[str, ...], Callable[..., Task]], ...] = (
    ("XQuAD", ("xquad", "xquad_contexts"), xquad),
    ("MGSM", ("mgsm", "mgsm_exemplars"), mgsm),
    ("X-CSQA", ("xcsqa",), xcsqa),
    ("XLSum", ("xlsum",), xlsum),
)


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


def read_inputs(folder: DataFolder, names: Sequence[str] | None, metric: Metric | None) -> Inputs:
    """Reads the tasks, and the first record of every file of texts.

    Args:
        folder: the data folder.
        names: the languages to take; None: all that have texts and held-out texts, and, if there are tasks, items.
        metric: the metric of all tasks; None: each task's own.

    Raises:
        CorpusError: something is missing, or a file cannot be read.
        ValueError: an unknown metric.
    """
    if metric is not None and metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    english = match_language("en", folder.corpora) or "en"
    languages = folder.languages(names, english)
    notes = Notes()
    tasks: list[Task] = []
    files: dict[str, Path] = {}
    for name, stems, make in TASKS:
        found = folder.task(*stems)
        if found is None:
            needed = " and ".join(f"tasks/{stem}.jsonl" for stem in stems)
            notes.left_out.append(f"{name} of tables 1 to 5: the data folder has no {needed}")
            continue
        task = _with_languages(make(*map(str, found)), languages)
        if english not in task.items or len(task.items) < 2:
            notes.left_out.append(f"{name} of tables 1 to 5: it needs English and another of {', '.join(languages)}")
            continue
        tasks.append(task)
        files |= dict(zip(stems, found))
    if names is None and tasks:  # each other language would only lengthen the run
        languages = [language for language in languages if any(language in task.items for task in tasks)]
    if not tasks:
        tasks = [continuation({language: str(folder.heldout[language]) for language in languages})]
        notes.departures.append(
            "tasks: the paper has XQuAD, MGSM, X-CSQA and XLSum; here the second half of a held-out text is to be "
            "chosen, since no task is in the data folder"
        )
    texts = {language: folder.corpora[language] for language in languages}
    heldout = {language: folder.heldout[language] for language in languages}
    for file in (*texts.values(), *heldout.values()):
        check_first_record(shards_of(str(file)), TEXT)
    if metric is not None:
        tasks = [task.judged_by(metric) for task in tasks]
        notes.departures.append(f"metric: {metric}, and not each task's own")
    files |= {f"{name}, heldout": file for name, file in heldout.items()} | texts
    return Inputs(english, texts, heldout, tasks, files, notes)


def _with_languages(task: Task, languages: Sequence[str]) -> Task:
    """Returns the task in these languages, by these names."""
    names = {language: match_language(language, task.items) for language in languages}
    return dataclasses.replace(
        task, items={language: task.items[name] for language, name in names.items() if name is not None}
    )
