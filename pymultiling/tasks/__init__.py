"""Tasks by which a model is judged with neurons off: their items, metrics, and scores under many sets in shared batches."""

from pymultiling.tasks.evaluate import evaluate
from pymultiling.tasks.files import mgsm, xcopa, xcsqa, xlsum, xquad
from pymultiling.tasks.heldout import continuation
from pymultiling.tasks.items import Item, Task
from pymultiling.tasks.metrics import METRICS

__all__ = ["METRICS", "Item", "Task", "continuation", "evaluate", "mgsm", "xcopa", "xcsqa", "xlsum", "xquad"]
