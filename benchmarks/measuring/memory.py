"""Resident memory of this process, from Linux's /proc."""

import re
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb() -> float:
    """Returns the peak so far in MiB. ru_maxrss cannot be used, because it starts at the parent's size."""
    return _read_kilobytes("VmHWM") / 1024


def resident_mb() -> float:
    """Returns the current resident memory in MiB."""
    return _read_kilobytes("VmRSS") / 1024


def added_mb(run: Callable[[], object]) -> float:
    """Calls `run` and returns how far its peak is above the resident memory before it, in MiB."""
    CLEAR.write_text("5")  # resets the peak to the current resident memory
    before = _read_kilobytes("VmRSS")
    run()
    return (_read_kilobytes("VmHWM") - before) / 1024


def _read_kilobytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert match is not None, f"{STATUS} has no {name}"
    return int(match[1])
