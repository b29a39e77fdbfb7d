"""What measurements cost, compared with the plain forward."""

from __future__ import annotations

from itertools import product

from benchmarks.experiments.real_models.inputs import Inputs
from benchmarks.experiments.real_models.part import Part, Tables, transposed
from benchmarks.whole_model.by_model_size import measure_in_process

DTYPES = ("float32", "bfloat16")


def measure(inputs: Inputs) -> Tables:
    """Returns one table: a row for each measured thing, and a column for each dtype and length."""
    cases = list(product(DTYPES, inputs.sample.price_lengths))
    rows = [measure_in_process(inputs.folder, dtype, length, inputs.sample.rounds) for dtype, length in cases]
    for row in rows:
        del row["model"], row["dtype"]
    return {"Price": transposed(rows, (f"{dtype}, {length} tokens" for dtype, length in cases), "measured")}


PART = Part(
    "What does a measurement cost?",
    "One document. Runs are timed in turn; times are medians of the ratios of two runs of the same round. The plain "
    "forward has no language-model head. A call of `importance` computes the norms of the weights each time; in a pass "
    "they are known. Memory is the peak above that of the plain forward, in MiB.",
    measure,
)
