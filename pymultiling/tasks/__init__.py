"""Tasks that a model is evaluated on while neurons are deactivated: items, metrics and the evaluation itself."""

from pymultiling.tasks.continuation_task import continuation
from pymultiling.tasks.evaluate import evaluate
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import METRICS
from pymultiling.tasks.published_tasks import mgsm, xcopa, xcsqa, xlsum, xquad

__all__ = [
    # a task and its evaluation
    "Item",
    "Task",
    "METRICS",
    "evaluate",
    # tasks from files or texts
    "continuation",
    "mgsm",
    "xcopa",
    "xcsqa",
    "xlsum",
    "xquad",
]
