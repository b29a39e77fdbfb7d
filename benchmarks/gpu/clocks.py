"""Reads the clocks, temperature and power of the GPU. It changes none of them."""

import csv
import shutil
import subprocess

from benchmarks.gpu.rows import Rows, SkipRow

QUERIES = ("clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw", "clocks_event_reasons.active")


def measure(rows: Rows, when: str) -> None:
    """Adds a row with the present values, as text of nvidia-smi."""
    rows.add("clocks", {"when": when}, _query)


def _query() -> dict[str, object]:
    if shutil.which("nvidia-smi") is None:
        raise SkipRow("nvidia-smi is not installed")
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader"]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    (values,) = csv.reader(output.splitlines()[:1], skipinitialspace=True)
    return dict(zip(QUERIES, values))
