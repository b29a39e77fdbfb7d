"""Resident memory of this process, from Linux's own account."""

import re
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb() -> float:
    """The peak so far. ru_maxrss would not do: it starts at the parent's size."""
    return _kilobytes("VmHWM") / 1024


def added_mb(run: Callable[[], object]) -> float:
    """How far a run's peak is above what is resident when it starts."""
    CLEAR.write_text("5")  # the peak starts again from what is resident now
    before = _kilobytes("VmRSS")
    run()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())[1])
