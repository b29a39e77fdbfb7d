"""Measures time and memory of importance, relative to the plain forward of a model with the shape of Llama-3.1-8B.

The weights are random. The plain forward is transformers' sdpa forward of the decoder without the language model head,
which importance does not run either. Columns with "MB" are in MiB.
"""

import gc
import statistics
from contextlib import ExitStack

import torch
from torch import Tensor

from benchmarks.gpu.device_timing import Run, Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.model_runs import compile_forward, open_run, random_llama
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import DTYPE, FORWARD, RUNS, Workload
from benchmarks.measuring.alternating import ratio
from benchmarks.operators.attention import attention
from benchmarks.operators.published import published_q

MEMORY, TIMES = "model, memory", "model, times"


@torch.no_grad()
def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Measures the memory of every run first, and then the times of all runs alternately."""
    model = random_llama(workload, device)
    tokens = torch.randint(0, workload.vocabulary, (workload.documents, workload.shape.length), device=device)
    peaks: dict[str, tuple[int, int] | None] = {}

    def measure_memory(name: str) -> dict[str, object]:
        """Returns the memory of the first batch, including everything that is computed from the weights."""
        gc.collect()
        with open_run(FORWARD, model, tokens) as forward:
            forward()  # makes libraries allocate what they allocate at their first call
        with open_run(name, model, tokens) as run:
            peaks[name] = peak_bytes(run, device)
        return _over_forward(name, peaks)

    for name in RUNS:
        rows.add(MEMORY, {"run": name}, lambda name=name: measure_memory(name))
    stopwatch = Stopwatch(device)
    with ExitStack() as stack:
        runs = {name: stack.enter_context(open_run(name, model, tokens)) for name in RUNS if name in peaks}
        if device.type == "cuda":
            _add_compiled(rows, runs, workload, device, tokens)
        milliseconds = stopwatch.in_turn(runs, workload.rounds)
        for name, run in runs.items():
            rows.add(TIMES, {"run": name}, lambda name=name, run=run: _time(name, run, milliseconds, device))
    _add_published(rows, workload, device, stopwatch, milliseconds)


def _over_forward(name: str, peaks: dict[str, tuple[int, int] | None]) -> dict[str, object]:
    """Returns the columns of the memory table. `peaks` has the allocated bytes before each run and their peak."""
    if peaks[name] is None:
        raise SkipRow("a GPU's memory is what is measured")
    (before, peak), (_, forward) = peaks[name], peaks[FORWARD]
    return {
        "weights MB": round(before / 2**20),
        "peak MB": round(peak / 2**20, 1),
        "MB over forward": round((peak - forward) / 2**20, 1),
        "share over forward": round((peak - forward) / forward, 4),
    }


def _add_compiled(rows: Rows, runs: dict[str, Run], workload: Workload, device: torch.device, tokens: Tensor) -> None:
    """Adds the compiled forward to the runs that are timed.

    Its memory is not measured, because the first model is loaded too. So the row of the memory table is skipped.
    """
    name = "forward by torch.compile"

    def prepare() -> dict[str, object]:
        run = compile_forward(workload, device, tokens)
        run()
        runs[name] = run
        raise SkipRow("a second model is beside it")

    rows.add(MEMORY, {"run": name}, prepare)


def _time(name: str, run: Run, milliseconds: dict[str, list[float]], device: torch.device) -> dict[str, object]:
    """Returns the columns of the table of times."""
    names = launches(run, device)
    over = round(ratio(milliseconds, name, FORWARD), 3)
    return {**quantiles(milliseconds[name]), "times forward": over, "launches": names and len(names)}


def _add_published(
    rows: Rows, workload: Workload, device: torch.device, stopwatch: Stopwatch, milliseconds: dict[str, list[float]]
) -> None:
    """Adds the published formulation of q without the forward, timed for one head of one document and scaled up."""
    shape = workload.shape
    parts = workload.documents * shape.heads * shape.layers

    def measure() -> dict[str, object]:
        problem = attention(shape, 1, DTYPE, device)
        times = stopwatch.repeat(lambda: published_q(problem.q[:, :1], problem.k[:, :1], problem.scale))
        over = parts * statistics.median(times) / statistics.median(milliseconds[FORWARD])
        return {**quantiles([parts * time for time in times]), "times forward": round(over, 1)}

    rows.add(TIMES, {"run": f"published formulation, q alone: one head of one document, times {parts}"}, measure)
