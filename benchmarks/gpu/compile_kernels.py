"""Compiles the Triton kernels that the parts of the GPU benchmark need, on all cores, without using the GPU.

    python -m benchmarks.gpu.compile_kernels [--capability 90] [--processes N] [--out FILE.json]

A job calls the kernels of one operator for one part. It runs in a process that sees no GPU (dry_launch.py). "CPU
seconds" are those of the job's process and of the assembler that it starts. The last line says how long all jobs take
on 16 cores, where every process first needs START_SECONDS.
"""

import argparse
import functools
import heapq
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.parts import FIRST, SECOND
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import LLAMA_8B, REHEARSAL, Workload

LENGTH = 2  # tokens of a document: no kernel is specialised for it
SPARE_CORES = 2  # for the process that measures, and for nvcc
START_SECONDS = 4.0  # to import torch and the package
# CPU seconds of a job, by a part of its name, the first that fits. Measured on 2026-11-29, Triton 3.6 and 3.9, Zen 4:
# qk_importance took 5 to 20, qk_estimate 7 to 8, the others up to 2, a layer of a model 5. Models: sums.
EXPECTED_SECONDS = {
    "all five sites, exact": 20.0,
    "all five sites, fast": 13.0,
    "forward": 6.0,
    "variant": 20.0,
    "qk_importance": 15.0,
    "qk_estimate": 8.0,
    "": 2.0,
}
TABLE = "compiled kernels"


class Job(NamedTuple):
    """The kernels of one operator for one part.

    Attributes:
        module: module of the part.
        name: the name of its function in `kernel_calls`.
    """

    module: str
    name: str


def jobs_of(module: str, workload: Workload) -> list[Job]:
    """Returns the jobs of a part's module, in the order in which it needs their kernels."""
    return [Job(module, name) for name in _calls(module, workload)]


def _calls(module: str, workload: Workload) -> dict[str, Callable[[], None]]:
    import torch

    kernel_calls = getattr(import_module(module), "kernel_calls", None)
    return {} if kernel_calls is None else kernel_calls(_shortened(workload), torch.device("cpu"))


def _shortened(workload: Workload) -> Workload:
    """Returns the workload with short documents where layers are large, which the CPU computes in little time."""
    shape, smaller = (replace(x, length=LENGTH) for x in (workload.shape, workload.smaller))
    return replace(workload, shape=shape, smaller=smaller)


def prepare_process() -> None:
    """Hides the GPU from this process and makes Triton compile."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.pop("TRITON_INTERPRET", None)
    import torch

    torch.set_num_threads(1)


def compile_job(job: Job, capability: int, workload: Workload) -> dict[str, object]:
    """Compiles the kernels of a job in this process and returns its measured columns."""
    from benchmarks.gpu.dry_launch import dry_launches

    before = os.times()
    with dry_launches(capability) as compilations:
        _calls(job.module, workload)[job.name]()
    after = os.times()
    compiled = {x.key for x in compilations if not x.cached}
    return {
        "compiled": len(compiled),
        "found in the cache": len({x.key for x in compilations} - compiled),
        "CPU seconds": round(sum(after[:4]) - sum(before[:4]), 1),
    }


class Precompilation:
    """Compiles kernels in the background.

    Args:
        jobs: what to compile, in order.
        capability: the chip's compute capability times 10.
        workload: the sizes of the parts.
        processes: number of processes.
        rows: where a row is added for every job.
    """

    def __init__(self, jobs: Iterable[Job], capability: int, workload: Workload, processes: int, rows: Rows):
        # A fresh process, because one that is forked from a process that uses the GPU cannot be told not to see it.
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=prepare_process)
        self._futures: dict[Job, Future[dict[str, object]]] = {}
        for job in jobs:
            future = self._pool.submit(compile_job, job, capability, workload)
            future.add_done_callback(functools.partial(self._add_row, rows, job))
            self._futures[job] = future

    @staticmethod
    def _add_row(rows: Rows, job: Job, future: "Future[dict[str, object]]") -> None:
        if not future.cancelled():
            rows.add(TABLE, {"part": job.module.rpartition(".")[2], "kernels of": job.name}, future.result)

    def wait_for(self, module: str, seconds: float | None = None) -> None:
        """Waits until the kernels of a part are compiled, at most `seconds`."""
        wait([future for job, future in self._futures.items() if job.module == module], timeout=seconds)

    def stop(self) -> None:
        """Ends all processes. Kernels that are not compiled yet are not compiled any more."""
        for process in list((self._pool._processes or {}).values()):
            process.terminate()
        self._pool.shutdown(wait=False, cancel_futures=True)


def seconds_on(cores: int, jobs: Iterable[float]) -> float:
    """Returns after how many seconds all jobs end on a number of cores, if each job is started in order on a free core.

    Args:
        cores: number of processes.
        jobs: the CPU seconds of the jobs, in order.
    """
    free_at = [START_SECONDS] * cores
    for seconds in jobs:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def describe_expected_time(modules: Iterable[str], cores: int) -> str:
    """Returns in a sentence how long the kernels of parts should take to compile, by EXPECTED_SECONDS."""
    names = [job.name for module in modules for job in jobs_of(module, LLAMA_8B)]
    expected = [next(seconds for part, seconds in EXPECTED_SECONDS.items() if part in name) for name in names]
    return (
        f"{len(names)} jobs, {sum(expected):.0f} CPU seconds to compile the kernels: "
        f"{seconds_on(cores - SPARE_CORES, expected):.0f} seconds on {cores} cores"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90, help="compute capability times 10 (default: 90, Hopper)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes (default: one for every core)")
    parser.add_argument("--part", nargs="+", help="parts (default: those of the first call)")
    parser.add_argument("--rehearse", action="store_true", help="use the sizes of the rehearsal")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines to which rows are added")
    options = parser.parse_args()
    workload = REHEARSAL if options.rehearse else LLAMA_8B
    parts = [part.module for part in FIRST + SECOND if part.name in (options.part or [x.name for x in FIRST])]
    rows = Rows(options.out)
    start = time.perf_counter()
    jobs = [job for part in parts for job in jobs_of(part, workload)]
    precompilation = Precompilation(jobs, options.capability, workload, options.processes, rows)
    for part in parts:
        precompilation.wait_for(part)
    measured = [row["CPU seconds"] for row in rows.read(TABLE) if "CPU seconds" in row]
    total = sum(measured)
    print(
        f"{len(measured)} of {len(jobs)} jobs, {total:.0f} CPU seconds, {time.perf_counter() - start:.0f} seconds here"
    )
    print(f"on {16 - SPARE_CORES} of 16 cores: {seconds_on(16 - SPARE_CORES, measured):.0f} seconds")
    return 0 if len(measured) == len(jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
