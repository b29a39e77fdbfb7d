"""All that is measured on a GPU: operators, a model, errors; as tables, a results file, and a verdict on every target.

    python -m benchmarks.gpu.run [--out FILE.json] [--quick [--device cpu]]

Every section runs in a process of its own with a time limit, so that one that breaks or hangs costs no other. --quick
takes tiny sizes: it tries the script, on a machine without a GPU too, and its numbers mean nothing.
Exit status: 0 if everything ran, met or not; 1 otherwise.
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

import pandas
import torch

from benchmarks.gpu.rows import Rows, read_rows
from benchmarks.gpu.targets import judge
from benchmarks.gpu.workload import LLAMA_8B, QUICK, kernels_of
from benchmarks.measuring.environment import describe, describe_device

RESULTS = Path(__file__).resolve().parents[1] / "results"
SECONDS = {"operators": 80, "model": 90, "errors": 30}
HIDDEN = {"table", "kernels", "exponentials", "bytes", "repetitions"}  # in the results file only


def section(name: str, file: Path, device: torch.device, quick: bool) -> None:
    """Measures one section in this process."""
    if device.type != "cuda":
        torch.set_num_threads(1)  # a trial may run beside anything
    import_module(f"benchmarks.gpu.{name}").measure(Rows(file), QUICK if quick else LLAMA_8B, device)


def sections(device: torch.device, quick: bool) -> tuple[dict[str, list[dict]], list[str]]:
    """{table: rows} of all sections, and what went wrong."""
    tables, wrong = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in SECONDS.items():
            file = Path(folder, name)
            command = [sys.executable, "-m", __spec__.name, "--device", str(device), "--section", name, str(file)]
            try:
                status = subprocess.run(command + ["--quick"] * quick, timeout=seconds, check=False).returncode
            except subprocess.TimeoutExpired:
                status = f"no end within {seconds} seconds"
            if status:
                wrong.append(f"section {name}: {status if isinstance(status, str) else f'exit status {status}'}")
            for row in read_rows(file):
                tables.setdefault(row.pop("table"), []).append(row)
                if "failed" in row:
                    wrong.append(" | ".join(map(str, row.values())))
    return tables, wrong


def show(title: str, rows: list[dict]) -> None:
    shown = [{name: cell(value) for name, value in row.items() if name not in HIDDEN} for row in rows]
    print(f"\n{title}\n{pandas.DataFrame(shown).fillna('').to_string(index=False)}", flush=True)


def cell(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one:.1e}" for name, one in value.items())
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) and value < 1 else str(value)


def default_out(device: torch.device, date: str) -> Path:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{date}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="results file to write; default: results/<device>-<date>.json")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="cpu: with --quick only")
    parser.add_argument("--section", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("found no GPU that torch can use")
    if options.device.type != "cuda" and not options.quick:
        parser.error("what is measured without --quick is a GPU's")
    if options.section:
        section(options.section[0], Path(options.section[1]), options.device, options.quick)
        return 0
    environment = {**describe(), **describe_device(options.device)}
    tables, wrong = sections(options.device, options.quick)
    tables["targets"] = judge(tables, kernels_of(options.device))
    workload = asdict(QUICK if options.quick else LLAMA_8B)
    out = options.out or (None if options.quick else default_out(options.device, environment["date"]))
    if out:
        results = {"environment": environment, "workload": workload, **tables, "did not run": wrong}
        out.write_text(json.dumps(results, indent=1) + "\n")
    for title, rows in tables.items():
        show(f"{title}, tiny sizes: a trial" if options.quick else title, rows)
    for problem in wrong:
        print("did not run:", problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
