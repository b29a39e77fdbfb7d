"""What the tables of arXiv 2505.21505 are made from: texts, tasks, and what is known to be other than in the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymultiling.errors import CorpusError
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
from pymultiling.tasks import Task, mgsm, msvamp
from pymultiling.tasks.metrics import Metric

LEAST_LANGUAGES = 3  # fewer have no related neurons, which are those of 2 ... K - 1 languages


TASKS: tuple[tuple[str, tuple[str, ...], Callable[..., Task]], ...] = (
    ("MGSM", ("mgsm", "mgsm_exemplars"), mgsm),
    ("MSVAMP", ("msvamp", "mgsm_exemplars"), msvamp),
)


def read_inputs(folder: DataFolder, names: Sequence[str] | None, metric: Metric | None) -> Inputs:
    """Reads the tasks, and the first record of every file of texts.

    Args:
        folder: the data folder.
        names: the languages to take; None: all that have texts and held-out texts, and, if there are tasks, items.
        metric: the metric of all tasks; None: the number at the end of the answer.

    Raises:
        CorpusError: something is missing, there are fewer than three languages, or a file cannot be read.
        ValueError: an unknown metric.
    """
    check_metric(metric)
    notes = Notes()
    english, languages, tasks, files = read_tasks(folder, TASKS, names, "with kinds of neurons off", notes)
    if len(languages) < LEAST_LANGUAGES:
        raise CorpusError(
            f"{folder.folder}: related neurons need texts in at least {LEAST_LANGUAGES} languages, and there are "
            f"{len(languages)} ({', '.join(languages)}): add corpora/LANGUAGE.txt and .heldout.txt"
        )
    texts, heldout = text_files(folder, languages)
    tasks = judge_all(tasks, metric, notes)
    return Inputs(english, texts, heldout, tasks, all_files(texts, heldout, files), notes)
