"""Runs the package's tests on the GPU, those of the operators first."""

import re
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.rows import Rows
from benchmarks.gpu.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
# {tests: seconds}. Compilation of the operators' kernels takes most of the time, so their tests are spread over
# processes one by one, and those of the other folders file by file.
GROUPS = {
    ("tests/ops", "tests/cuda"): 140,
    ("tests/probes", "tests/models", "tests/methods", "tests/passes", "tests/neurons"): 65,
}
REHEARSED = ("tests/neurons/test_sets.py",)
SUMMARY_SECONDS = 10  # to end after an interruption
SUMMARY = re.compile(r"(\d+) (passed|failed|skipped|errors?|deselected)")


def measure(rows: Rows, workload: Workload, device: torch.device) -> None:
    """Adds a row for every group of tests: how many passed, failed and were skipped, and which failed."""
    groups = GROUPS if device.type == "cuda" else {REHEARSED: 600}
    for number, (paths, seconds) in enumerate(groups.items()):
        distribution = "worksteal" if number == 0 else "loadfile"
        rows.add("tests", {"tests": " ".join(paths)}, partial(_run, paths, seconds, distribution))


def _run(paths: tuple[str, ...], seconds: int, distribution: str) -> dict[str, object]:
    command = [sys.executable, "-m", "pytest", "-m", "not long", "--tb=line", "-rfE"]
    command += ["-p", "no:cacheprovider", "-p", "benchmarks.gpu"]
    if len(paths) > 1:
        command += ["-n", "14", "--dist", distribution]
    process = subprocess.Popen(
        [*command, *paths], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then prints what has failed so far
        with suppress(subprocess.TimeoutExpired):
            process.wait(SUMMARY_SECONDS)
        process.kill()
        output, _ = process.communicate()
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    counts = {name: int(count) for count, name in SUMMARY.findall(output.splitlines()[-1] if output else "")}
    return {"exit status": process.returncode, **counts, "failed tests": failed, "output": output[-3000:]}
