"""Tasks by which a model is judged with neurons off: their items, metrics, and scores under many sets in shared batches."""

from pymultiling.tasks.continuation_task import continuation
from pymultiling.tasks.evaluate import evaluate
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import METRICS
from pymultiling.tasks.published_tasks import mgsm, xcopa, xcsqa, xlsum, xquad

__all__ = ["METRICS", "Item", "Task", "continuation", "evaluate", "mgsm", "xcopa", "xcsqa", "xlsum", "xquad"]
