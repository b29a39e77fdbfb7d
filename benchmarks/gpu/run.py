"""Runs all GPU benchmarks: operators, a model, and errors. Prints tables and writes a results file.

    python -m benchmarks.gpu.run [--out FILE.json] [--quick [--device cpu]]

The last table says which targets are met. Every section runs in its own process with a time limit, so that a section
that crashes or hangs does not affect the others. --quick uses tiny sizes to try the script, also without a GPU; its
numbers are meaningless. The exit status is 0 if everything ran, whether or not the targets are met, and 1 otherwise.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas
import torch

from benchmarks.gpu.rows import Rows, read_rows
from benchmarks.gpu.targets import Tables, judge
from benchmarks.gpu.workload import LLAMA_8B, QUICK, kernels_of
from benchmarks.measuring.environment import describe, describe_device

RESULTS = Path(__file__).resolve().parents[1] / "results"
SECONDS = {"operators": 80, "model": 90, "errors": 30}
HIDDEN = {"table", "kernels", "exponentials", "bytes", "repetitions"}  # columns that only the results file has


def measure_section(name: str, file: Path, device: torch.device, quick: bool) -> None:
    """Measures one section in this process."""
    if device.type != "cuda":
        torch.set_num_threads(1)  # a trial should not slow down other programs
    import_module(f"benchmarks.gpu.{name}").measure(Rows(file), QUICK if quick else LLAMA_8B, device)


def run_sections(device: torch.device, quick: bool) -> tuple[Tables, list[str]]:
    """Runs all sections in their own processes.

    Returns:
        {table: rows} of all sections, and messages about everything that failed.
    """
    tables: Tables = {}
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in SECONDS.items():
            file = Path(folder, name)
            command = [sys.executable, "-m", __spec__.name, "--device", str(device), "--section", name, str(file)]
            try:
                status = subprocess.run(command + ["--quick"] * quick, timeout=seconds, check=False).returncode
                problem = f"exit status {status}" if status else ""
            except subprocess.TimeoutExpired:
                problem = f"no end within {seconds} seconds"
            if problem:
                failures.append(f"section {name}: {problem}")
            for row in read_rows(file):
                tables.setdefault(row.pop("table"), []).append(row)
                if "failed" in row:
                    failures.append(" | ".join(map(str, row.values())))
    return tables, failures


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


def default_out(device: torch.device, date: str) -> Path:
    """Returns the path of the results file of a device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{date}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, help="results file to write (default: benchmarks/results/<device>-<date>.json)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="use tiny sizes, to try the script; writes a file only with --out"
    )
    parser.add_argument(
        "--device",
        type=torch.device,
        default=torch.device("cuda"),
        help="cuda or cpu; cpu needs --quick (default: cuda)",
    )
    parser.add_argument("--section", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU: try the script with --quick --device cpu")
    if options.device.type != "cuda" and not options.quick:
        parser.error("--device cpu needs --quick: the full benchmarks are for GPUs only")
    if options.section:
        measure_section(options.section[0], Path(options.section[1]), options.device, options.quick)
        return 0
    environment = {**describe(), **describe_device(options.device)}
    tables, failures = run_sections(options.device, options.quick)
    tables["targets"] = judge(tables, kernels_of(options.device))
    workload = asdict(QUICK if options.quick else LLAMA_8B)
    out = options.out or (None if options.quick else default_out(options.device, environment["date"]))
    if out:
        results = {"environment": environment, "workload": workload, **tables, "did not run": failures}
        out.write_text(json.dumps(results, indent=1) + "\n")
    for title, rows in tables.items():
        print_table(f"{title}, tiny sizes: a trial" if options.quick else title, rows)
    for problem in failures:
        print("did not run:", problem)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
