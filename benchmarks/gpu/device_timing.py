"""Time, launches and memory of a call: by a GPU's own events; on a CPU, to try a benchmark, by the wall clock."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

Run = Callable[[], object]
COLD_BYTES = 2**30  # several times any L2
WARM_UP = 3
LEAST, MOST, MILLISECONDS = 5, 100, 1000  # repetitions, and how long all of them may take


class Stopwatch:
    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self._other = torch.ones(COLD_BYTES // 4, device=device) if self.cuda else None

    def repeat(self, run: Run) -> list[float]:
        """Milliseconds of every repetition, each with a cold L2 and without the host's share of it.

        Between repetitions a large buffer is read: that drives all else out of the L2, leaves nothing there to be
        written back at the expense of `run`, and takes long enough for the host to queue `run` behind it.
        """
        for _ in range(WARM_UP):
            once = self._time(run)
        if not self.cuda:
            return [self._time(run) for _ in range(LEAST)]
        repetitions = int(min(MOST, max(LEAST, MILLISECONDS / max(once, 1e-3))))
        events = []
        for _ in range(repetitions):
            self._other.sum()
            events.append(self._queue(run))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def in_turn(self, runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
        """Milliseconds of every run in every round, a b c, a b c, ..., each from an idle device to its end."""
        milliseconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + WARM_UP):
            for name, run in runs.items():
                took = self._time(run)
                if turn >= WARM_UP:
                    milliseconds[name].append(took)
        return milliseconds

    def _time(self, run: Run) -> float:
        if not self.cuda:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        torch.cuda.synchronize()
        start, end = self._queue(run)
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    def _queue(self, run: Run) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        return start, end


def quantiles(milliseconds: list[float]) -> dict[str, float | int]:
    tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
    return {
        "median ms": round(statistics.median(milliseconds), 4),
        "p10 ms": round(tenths[0], 4),
        "p90 ms": round(tenths[-1], 4),
        "repetitions": len(milliseconds),
    }


def launches(run: Run, device: torch.device) -> list[str] | None:
    """Names of what one call has the device do: kernels, copies and fills. None where that cannot be seen."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return [event["name"] for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")] or None


def peak_bytes(run: Run, device: torch.device) -> tuple[int, int] | None:
    """Bytes allocated before the call, and the most during it. None without a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return before, torch.cuda.max_memory_allocated()
