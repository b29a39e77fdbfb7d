"""BoolQ: questions about a passage that are answered with yes or no, by log-likelihood."""

from __future__ import annotations

from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.published_fields import Boolq, BoolqOfSuperGlue
from pymultiling.tasks.task_files import Source, check_fields, read_records

CHOICES = (" no", " yes")


def boolq(source: Source) -> Task:
    """BoolQ: choose between yes and no, by log-likelihood.

    The data set is English, and its records have no language: give {"en": file}.

    Source: arXiv 1905.10044.

    Args:
        source: records with question and passage, and with answer (true or false), or as in SuperGLUE label (true or
            false, or 1 or 0).

    Returns:
        A task with the metric "accuracy".

    Raises:
        CorpusError: a file cannot be read, or a field is missing or has another value.
    """
    items: dict[str, list[Item]] = {}
    for language, record, where in read_records(source):
        asked: Boolq | BoolqOfSuperGlue
        if "label" in record:
            asked = check_fields(BoolqOfSuperGlue, record, where, "BoolQ")
            is_true = bool(asked.label)
        else:
            asked = check_fields(Boolq, record, where, "BoolQ")
            is_true = asked.answer
        prompt = f"{asked.passage}\nQuestion: {asked.question.rstrip('? ')}?\nAnswer:"
        items.setdefault(language, []).append(Item(prompt, CHOICES[is_true], CHOICES))
    return Task("BoolQ", items, "accuracy")
