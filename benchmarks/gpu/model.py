"""Measures time and memory of importance, relative to the plain forward of models with the shapes of Llama.

The weights are random. The plain forward is transformers' sdpa forward of the decoder without the language model head,
which importance does not run either. Columns with "MB" are in MiB.
"""

import gc
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu import clocks
from benchmarks.gpu.device_timing import Run, Stopwatch, launches, peak_bytes, quantiles
from benchmarks.gpu.model_runs import open_run, random_llama
from benchmarks.gpu.rows import Rows, SkipRow
from benchmarks.gpu.workload import EXACT_CUDA, FORWARD, RUNS, Workload
from benchmarks.operators.shapes import Shape
from pymultiling.ops import unavailable
from pymultiling.runtime.alternating import ratio

MEMORY, TIMES = "model, memory", "model, times"
FEW = 16  # tokens of the vocabulary of a model that only compiles kernels


@torch.no_grad()
def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Measures the memory of every run with the first batch, and the times of all runs in turn with every batch."""
    batches = ((workload.documents, workload.shape.length), *workload.model_batches)
    model = random_llama(workload.shape, workload.vocabulary, device)
    measure_memory(rows, model, random_tokens(workload, batches[0], device), device)
    for number, batch in enumerate(batches):
        tokens = random_tokens(workload, batch, device)
        measure_times(rows, workload, workload.shape, model, tokens, RUNS, with_launches=number == 0)
    clocks.measure(rows, "after the model")
    del model
    gc.collect()
    model = random_llama(workload.smaller, workload.vocabulary, device)
    measure_times(rows, workload, workload.smaller, model, random_tokens(workload, batches[0], device), RUNS)


def kernel_calls(workload: Workload, device: torch.device) -> dict[str, Callable[[], None]]:
    """Returns {name: function} whose functions call every kernel that `measure` needs.

    The kernels for the first batch serve the others too.
    """
    runs = tuple(name for name in RUNS if name not in (FORWARD, EXACT_CUDA))
    shapes = (workload.shape, workload.smaller)
    return {f"{shape.name}, {run}": partial(_call, shape, workload, run, device) for shape in shapes for run in runs}


@torch.no_grad()
def _call(shape: Shape, workload: Workload, run: str, device: torch.device) -> None:
    model = random_llama(replace(shape, layers=1), FEW, device)
    for documents, _ in ((workload.documents, 0), *workload.model_batches):
        tokens = torch.zeros(documents, shape.length, dtype=torch.int64, device=device)
        with open_run(run, model, tokens) as call:
            call()


def random_tokens(workload: Workload, batch: tuple[int, int], device: torch.device) -> Tensor:
    """Returns (documents, length) random tokens. batch: documents and length."""
    return torch.randint(0, workload.vocabulary, batch, device=device)


def measure_memory(rows: Rows, model: nn.Module, tokens: Tensor, device: torch.device) -> None:
    """Adds the memory of the first batch of every run, including everything that is computed from the weights."""
    peaks: dict[str, tuple[int, int] | None] = {}

    def measure_run(name: str) -> dict[str, object]:
        require_cuda_kernel(name)
        gc.collect()
        with open_run(FORWARD, model, tokens) as forward:
            forward()  # makes libraries allocate what they allocate at their first call
        with open_run(name, model, tokens) as run:
            peaks[name] = peak_bytes(run, device)
        return _over_forward(name, peaks)

    for name in RUNS:
        rows.add(MEMORY, {"run": name}, partial(measure_run, name))


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


def require_cuda_kernel(name: str) -> None:
    """Raises SkipRow if a run needs the kernel in CUDA C++ and there is none."""
    if name == EXACT_CUDA and (reason := unavailable("cuda")) is not None:
        raise SkipRow(reason)


def measure_times(
    rows: Rows,
    workload: Workload,
    shape: Shape,
    model: nn.Module,
    tokens: Tensor,
    names: Iterable[str],
    with_launches: bool = False,
    more_runs: dict[str, Run] | None = None,
) -> None:
    """Adds the times of runs, in turn.

    Args:
        rows: where rows are added.
        workload: the number of rounds.
        shape: the model's sizes.
        model: the model.
        tokens: (documents, length), the batch.
        names: names of runs that `open_run` knows. The first is the plain forward.
        with_launches: whether to count the launches of every run.
        more_runs: {name: function} of other runs.
    """
    device = tokens.device
    row = {"model": shape.name, "batch": "{} x {}".format(*tokens.shape)}
    with ExitStack() as stack:
        runs: dict[str, Run] = {}
        for name in names:
            try:
                require_cuda_kernel(name)
                run = stack.enter_context(open_run(name, model, tokens))
                run()
                runs[name] = run
            except Exception as error:  # noqa: BLE001, it becomes a row and does not stop the other runs
                rows.add(TIMES, {"run": name, **row}, partial(_raise, error))
        runs |= more_runs or {}
        milliseconds = Stopwatch(device).in_turn(runs, workload.rounds)
        for name, run in runs.items():
            counted = run if with_launches else None
            rows.add(TIMES, {"run": name, **row}, partial(_time, name, counted, milliseconds, device))


def _raise(error: Exception) -> dict[str, object]:
    raise error


def _time(name: str, run: Run | None, milliseconds: dict[str, list[float]], device: torch.device) -> dict[str, object]:
    """Returns the columns of the table of times. The launches of `run` are counted unless it is None."""
    names = run and launches(run, device)
    over = round(ratio(milliseconds, name, FORWARD), 3)
    return {**quantiles(milliseconds[name]), "times forward": over, "launches": names and len(names)}
