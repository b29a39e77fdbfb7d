"""What the tables of arXiv 2402.18815 are made from: texts, tasks, and what is known to be other than in the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymultiling.methods.reproduction.data_folder import DataFolder
from pymultiling.methods.reproduction.plan import Notes
from pymultiling.methods.reproduction.text_inputs import (
    Inputs,
    all_files,
    check_metric,
    judge_all,
    read_tasks,
    text_files,
)
from pymultiling.tasks import Task, continuation, mgsm, xcsqa, xlsum, xquad
from pymultiling.tasks.metrics import Metric

TASKS: tuple[tuple[str, tuple[str, ...], Callable[..., Task]], ...] = (
    ("XQuAD", ("xquad", "xquad_contexts"), xquad),
    ("MGSM", ("mgsm", "mgsm_exemplars"), mgsm),
    ("X-CSQA", ("xcsqa",), xcsqa),
    ("XLSum", ("xlsum",), xlsum),
)


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
    check_metric(metric)
    notes = Notes()
    english, languages, tasks, files = read_tasks(folder, TASKS, names, "of tables 1 to 5", notes)
    if not tasks:
        tasks = [continuation({language: str(folder.heldout[language]) for language in languages})]
        notes.departures.append(
            "tasks: the paper has XQuAD, MGSM, X-CSQA and XLSum; here the second half of a held-out text is to be "
            "chosen, since no task is in the data folder"
        )
    texts, heldout = text_files(folder, languages)
    tasks = judge_all(tasks, metric, notes)
    return Inputs(english, texts, heldout, tasks, all_files(texts, heldout, files), notes)
