"""Tasks that a model is evaluated on while neurons are deactivated: items, metrics and the evaluation itself."""

from pymultiling.tasks.boolq import boolq
from pymultiling.tasks.continuation_task import continuation
from pymultiling.tasks.evaluate import evaluate
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import METRICS
from pymultiling.tasks.published_tasks import mgsm, msvamp, xcopa, xcsqa, xlsum, xquad
from pymultiling.tasks.xnli import xnli

__all__ = [
    # a task and its evaluation
    "Item",
    "Task",
    "METRICS",
    "evaluate",
    # tasks from files or texts
    "boolq",
    "continuation",
    "mgsm",
    "msvamp",
    "xcopa",
    "xcsqa",
    "xlsum",
    "xnli",
    "xquad",
]
