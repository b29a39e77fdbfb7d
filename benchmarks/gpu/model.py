"""What importance costs over the plain forward of a model of Llama-3.1-8B's shape with random weights: time and memory.

The plain forward is transformers' sdpa forward of the decoder without its head, which importance does not run either.
"""

import gc
import statistics
from contextlib import ExitStack

import torch

from benchmarks.gpu.device_timing import Run, Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.model_runs import compiled, opened, random_llama
from benchmarks.gpu.rows import NotHere, Rows
from benchmarks.gpu.workload import DTYPE, FORWARD, RUNS, Workload
from benchmarks.measuring.alternating import ratio
from benchmarks.operators.attention import attention
from benchmarks.operators.published import published_q

MEMORY, TIMES = "model, memory", "model, times"


@torch.no_grad()
def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Memory first, alone on the device; then the times of all that ran, in turn."""
    model = random_llama(workload, device)
    tokens = torch.randint(0, workload.vocabulary, (workload.documents, workload.shape.length), device=device)
    peaks: dict[str, tuple[int, int] | None] = {}

    def memory(name: str) -> dict:
        """The first batch, with all that has to be computed from the weights."""
        gc.collect()
        with opened(FORWARD, model, tokens) as forward:
            forward()  # whatever libraries allocate at their first call
        with opened(name, model, tokens) as run:
            peaks[name] = peak_bytes(run, device)
        return _over_forward(name, peaks)

    for name in RUNS:
        rows.add(MEMORY, {"run": name}, lambda name=name: memory(name))
    stopwatch = Stopwatch(device)
    with ExitStack() as stack:
        runs = {name: stack.enter_context(opened(name, model, tokens)) for name in RUNS if name in peaks}
        if device.type == "cuda":
            _add_compiled(rows, runs, workload, device, tokens)
        took = stopwatch.in_turn(runs, workload.rounds)
        for name, run in runs.items():
            rows.add(TIMES, {"run": name}, lambda name=name, run=run: _time(name, run, took, device))
    _add_published(rows, workload, device, stopwatch, took)


def _over_forward(name: str, peaks: dict[str, tuple[int, int] | None]) -> dict:
    if peaks[name] is None:
        raise NotHere("a GPU's memory is what is measured")
    (before, peak), (_, forward) = peaks[name], peaks[FORWARD]
    return {
        "weights MB": round(before / 2**20),
        "peak MB": round(peak / 2**20, 1),
        "MB over forward": round((peak - forward) / 2**20, 1),
        "share over forward": round((peak - forward) / forward, 4),
    }


def _add_compiled(rows: Rows, runs: dict[str, Run], workload: Workload, device: torch.device, tokens) -> None:
    name = "forward by torch.compile"

    def prepare() -> dict:
        run = compiled(workload, device, tokens)
        run()
        runs[name] = run
        raise NotHere("a second model is beside it")

    rows.add(MEMORY, {"run": name}, prepare)


def _time(name: str, run: Run, took: dict[str, list[float]], device: torch.device) -> dict:
    names = launches(run, device)
    over = round(ratio(took, name, FORWARD), 3)
    return {**quantiles(took[name]), "times forward": over, "launches": names and len(names)}


def _add_published(rows: Rows, workload: Workload, device: torch.device, stopwatch: Stopwatch, took: dict) -> None:
    """The published formulation of q, timed for one head of one document, scaled up to all; without the forward."""
    shape = workload.shape
    parts = workload.documents * shape.heads * shape.layers

    def measure() -> dict:
        problem = attention(shape, 1, DTYPE, device)
        times = stopwatch.repeat(lambda: published_q(problem.q[:, :1], problem.k[:, :1], problem.scale))
        over = parts * statistics.median(times) / statistics.median(took[FORWARD])
        return {**quantiles([parts * one for one in times]), "times forward": round(over, 1)}

    rows.add(TIMES, {"run": f"published formulation, q alone: one head of one document, times {parts}"}, measure)
