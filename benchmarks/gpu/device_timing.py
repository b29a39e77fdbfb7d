"""Measures time, launches and memory of a call.

Times are from a GPU's events. On a CPU they are from the wall clock, only to try a benchmark.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], object]
COLD_BYTES = 2**30  # several times any L2
WARM_UP = 3
MIN_REPETITIONS, MAX_REPETITIONS = 5, 100
MILLISECONDS = 300  # target for all repetitions together
CPU_REPETITIONS = 2  # without a warm-up: only to try a benchmark


class Stopwatch:
    """Times runs on a device."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self._flush_buffer = torch.ones(COLD_BYTES // 4, device=device) if self.cuda else None

    def repeat(self, run: Run) -> list[float]:
        """Returns the milliseconds of every repetition, each with a cold L2 and without the host's overhead.

        Between repetitions a large buffer is read. This evicts everything else from the L2, leaves nothing there to be
        written back during `run`, and takes long enough for the host to queue `run` after it.
        """
        if not self.cuda:
            return [self._time(run) for _ in range(CPU_REPETITIONS)]
        for _ in range(WARM_UP):
            milliseconds = self._time(run)
        repetitions = int(min(MAX_REPETITIONS, max(MIN_REPETITIONS, MILLISECONDS / max(milliseconds, 1e-3))))
        events = []
        for _ in range(repetitions):
            self._flush_buffer.sum()
            events.append(self._queue(run))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def in_turn(self, runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
        """Calls all runs in turn, a b c, a b c, ..., each starting on an idle device.

        Returns:
            The milliseconds of every run in every round, without the warm-up rounds.
        """
        milliseconds: dict[str, list[float]] = {name: [] for name in runs}
        warm_up = WARM_UP if self.cuda else 0
        for turn in range(rounds + warm_up):
            for name, run in runs.items():
                duration = self._time(run)
                if turn >= warm_up:
                    milliseconds[name].append(duration)
        return milliseconds

    def _time(self, run: Run) -> float:
        """Returns the milliseconds of one call, which starts on an idle device."""
        if not self.cuda:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        torch.cuda.synchronize()
        start, end = self._queue(run)
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def _queue(self, run: Run) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Queues one call on the GPU, between the two events that it returns."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        return start, end


def quantiles(milliseconds: list[float]) -> dict[str, float | int]:
    """Returns the columns of a table of times: median, 10% and 90% quantiles, and the number of repetitions."""
    tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
    return {
        "median ms": round(statistics.median(milliseconds), 4),
        "p10 ms": round(tenths[0], 4),
        "p90 ms": round(tenths[-1], 4),
        "repetitions": len(milliseconds),
    }


def launches(run: Run, device: torch.device) -> list[str] | None:
    """Returns the names of the kernels, copies and fills of one call. None if they cannot be recorded."""
    return [event["name"] for event in device_events(run, device)] or None


def device_events(run: Run, device: torch.device) -> list[dict[str, Any]]:
    """Returns the kernels, copies and fills of one call. The list is empty without a GPU.

    Each has a "name", and start "ts" and duration "dur" in microseconds.
    """
    if device.type != "cuda":
        return []
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]


def peak_bytes(run: Run, device: torch.device) -> tuple[int, int] | None:
    """Returns the allocated bytes before a call and the peak during it. None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return before, torch.cuda.max_memory_allocated()
