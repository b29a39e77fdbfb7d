"""Runs the GPU benchmark: rows of all parts, in one call of at most SECONDS seconds.

    python -m benchmarks.gpu.run [--second] [--rehearse] [--out FILE.json]

Every part runs in its own process with a time limit, so that a part that crashes or hangs does not affect the others.
Meanwhile all other cores compile the kernels, in the order in which the parts need them. The results file is written
after every part. --second runs the parts that need more time and tell less: alternatives to the kernels, and the tests.
--rehearse runs all parts on the CPU with tiny sizes and interpreted kernels; its numbers mean nothing. The exit status
is 0 if everything ran, whether or not the targets are met, and 1 otherwise.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pandas
import torch

from benchmarks.gpu.compile_kernels import SPARE_CORES, Precompilation, jobs_of
from benchmarks.gpu.parts import FIRST, SECOND, Part
from benchmarks.gpu.rows import Rows, read_rows
from benchmarks.gpu.targets import Tables, judge
from benchmarks.gpu.workload import BACKEND, LLAMA_8B, REHEARSAL
from benchmarks.measuring.environment import describe

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# The builds of the two calls, as arguments of Python after "-m". The tests need an installation.
BUILD = ("benchmarks.gpu.build_cuda",)
INSTALL = ("pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ".")
SECONDS = 345  # of the parts of a call
REHEARSAL_FACTOR = 20  # the interpreter is slow, and so is a machine that runs other programs too
SHORTEST = 5  # seconds: with less time a part does not start
WAIT = 60  # seconds at most for the kernels of a part; it compiles what is missing then
HIDDEN = {"table", "kernels", "counters", "exponentials", "bytes", "repetitions", "output"}  # only in results files


class Results:
    """The results file, and the rows from which it is written.

    Args:
        out: the file.
        rehearse: whether the sizes are those of the rehearsal.
    """

    def __init__(self, out: Path, rehearse: bool):
        self.out = out
        self.rows_file = out.with_suffix(".rows")  # JSON lines, to which all processes append
        self.rows_file.unlink(missing_ok=True)
        self.failures: list[str] = []
        self._workload = asdict(REHEARSAL if rehearse else LLAMA_8B)
        self._environment = describe()

    def write(self) -> Tables:
        """Writes the results file from the rows that there are and returns its tables."""
        tables: Tables = {}
        failures = list(self.failures)
        for row in read_rows(self.rows_file):
            tables.setdefault(row.pop("table"), []).append(row)
            if "failed" in row:
                failures.append(" | ".join(map(str, row.values())))
        (device,) = tables.pop("environment", [{}])
        tables["targets"] = judge(tables, BACKEND)
        environment = {**self._environment, **device}
        results = {"environment": environment, "workload": self._workload, **tables, "did not run": failures}
        self.out.write_text(json.dumps(results, indent=1) + "\n")
        return tables | {"did not run": [{"what": failure} for failure in failures]}


def run_limited(command: list[str], seconds: float) -> str:
    """Runs a command in its own process group, and ends the whole group after a time limit.

    Returns:
        What went wrong, or "".
    """
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(seconds)
        return f"exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:.0f} seconds"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_parts(
    parts: Iterable[Part],
    results: Results,
    rehearse: bool,
    before: Callable[[Part, float], None] = lambda part, seconds: None,
    seconds: float = SECONDS,
) -> None:
    """Runs parts, one after the other, and writes the results file after each.

    Args:
        parts: the parts, in order.
        results: where rows and failures go.
        rehearse: whether to run them on the CPU.
        before: called before each part with the seconds that are left; returns when the part may start.
        seconds: time for all parts. Parts that do not fit are shortened or left out.
    """
    end = time.monotonic() + seconds
    for part in parts:
        before(part, end - time.monotonic())
        start = time.monotonic()
        limit = min(part.seconds * (REHEARSAL_FACTOR if rehearse else 1), end - start)
        if limit < SHORTEST:
            results.failures.append(f"part {part.name}: no time was left")
            continue
        command = [sys.executable, "-m", "benchmarks.gpu.part", part.module, str(results.rows_file)]
        if problem := run_limited(command + ["--rehearse"] * rehearse, limit):
            results.failures.append(f"part {part.name}: {problem}")
        took = round(time.monotonic() - start, 1)
        Rows(results.rows_file).add("parts", {"part": part.name}, lambda took=took: {"seconds": took})
        results.write()


class Build:
    """A build that runs in the background.

    Args:
        module_arguments: arguments of Python after "-m".
        log: file for its messages.
    """

    def __init__(self, module_arguments: Sequence[str], log: Path):
        command = [sys.executable, "-m", *module_arguments]
        self._what, self._log, self._start = " ".join(module_arguments), log, time.monotonic()
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True
        )
        self._is_reported = False

    def wait(self, rows: Rows, seconds: float) -> None:
        """Waits until it ends, at most `seconds`. The first call adds a row."""
        if self._is_reported:
            return
        self._is_reported = True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        took = round(time.monotonic() - self._start)
        columns = {"exit status": self._process.poll(), "waited until second": took}
        rows.add("build", {"build": self._what}, lambda: {**columns, "output": self._log.read_text()[-1000:]})

    def stop(self) -> None:
        """Ends it, if it still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run_on_gpu(parts: Sequence[Part], build: Sequence[str], results: Results) -> None:
    """Runs parts on the GPU, while the other cores build an extension and compile the Triton kernels.

    Args:
        parts: the parts, in order.
        build: the build, as arguments of Python after "-m".
        results: where rows and failures go.
    """
    rows = Rows(results.rows_file)
    background = Build(build, results.out.with_suffix(".build"))
    major, minor = torch.cuda.get_device_capability()
    jobs = [job for part in parts for job in jobs_of(part.module, LLAMA_8B)]
    processes = max(1, (os.cpu_count() or 1) - SPARE_CORES)
    precompilation = Precompilation(jobs, 10 * major + minor, LLAMA_8B, processes, rows)

    def before(part: Part, seconds: float) -> None:
        precompilation.wait_for(part.module, min(WAIT, seconds))
        if part.needs_build:
            background.wait(rows, min(WAIT, seconds))

    try:
        run_parts(parts, results, rehearse=False, before=before)
    finally:
        precompilation.stop()
        background.stop()


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Prints a table without the columns that are only for results files."""
    visible = [{name: format_cell(value) for name, value in row.items() if name not in HIDDEN} for row in rows]
    print(f"\n{title}\n{pandas.DataFrame(visible).fillna('').to_string(index=False)}", flush=True)


def format_cell(value: object) -> str:
    """Formats a value of a table. None becomes an empty cell."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number:.1e}" for name, number in value.items())
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and value < 1 else str(value)


def default_out(rehearse: bool, second: bool) -> Path:
    """Returns the path of the results file of this device and day."""
    name = "rehearsal" if rehearse else torch.cuda.get_device_name()
    words = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return RESULTS / f"{words}-{date.today().isoformat()}{'-second' if second else ''}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/<device>-<date>.json)")
    parser.add_argument("--second", action="store_true", help="run the parts of the second call")
    parser.add_argument("--rehearse", action="store_true", help="try the script on the CPU; needs --out")
    parser.add_argument("--part", nargs="+", help="run only these parts")
    options = parser.parse_args()
    if options.rehearse and not options.out:
        parser.error("--rehearse needs --out: its numbers mean nothing")
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch finds no GPU: try the script with --rehearse")
    parts = [x for x in (SECOND if options.second else FIRST) if options.part is None or x.name in options.part]
    results = Results(options.out or default_out(options.rehearse, options.second), options.rehearse)
    if options.rehearse:
        run_parts(parts, results, rehearse=True, seconds=float("inf"))
    else:
        run_on_gpu(parts, INSTALL if options.second else BUILD, results)
    tables = results.write()
    failures = tables.pop("did not run")
    for title, rows in tables.items():
        print_table(f"{title}, tiny sizes: a rehearsal" if options.rehearse else title, rows)
    for failure in failures:
        print("did not run:", failure["what"])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
