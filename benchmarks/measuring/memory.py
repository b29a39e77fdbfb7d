"""Resident memory of this process in MiB, from Linux's /proc.

The results files of end_to_end, streaming, ilo_flores and gpu call this unit MB.
"""

import re
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mib() -> float:
    """Returns the peak of the resident memory so far. ru_maxrss cannot be used: it starts at the parent's size."""
    return _read_kilobytes("VmHWM") / 1024


def resident_mib() -> float:
    """Returns the current resident memory."""
    return _read_kilobytes("VmRSS") / 1024


def added_mib(run: Callable[[], object]) -> float:
    """Calls `run` and returns by how much the peak during the call exceeds the resident memory before it."""
    CLEAR.write_text("5")  # resets the peak to the current resident memory
    before = _read_kilobytes("VmRSS")
    run()
    return (_read_kilobytes("VmHWM") - before) / 1024


def _read_kilobytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert match is not None, f"{STATUS} has no {name}"
    return int(match[1])
