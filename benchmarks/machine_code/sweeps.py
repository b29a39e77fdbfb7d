"""Predicts how long the sweeps of qk_importance take on an H100, by simulating the issue slots of a scheduler.

    python -m benchmarks.machine_code.compile_table --operator qk_importance --target sm_90 --code FOLDER
    python -m benchmarks.machine_code.sweeps FOLDER/*.txt

A row is a sweep, which is the loop over keys that computes one exponential for each query, key and neuron. The columns
are its instructions for each exponential, and the clocks of a scheduler for each exponential with 1, 2, 3 and 4
resident warps. Behind the expected clocks are those of the fast and the slow `Machine`, see issue.py for these and for
what would refute the prediction. An exponential keeps the special function unit busy for 8 clocks, so fewer than 8 are
impossible.
"""

import argparse
from pathlib import Path

import pandas

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.issue import MACHINES, simulate

WARPS = (1, 2, 3, 4)


def clocks_per_exponential(loop: list[machine_code.Instruction], warps: int) -> list[float]:
    """Returns the clocks of a scheduler for each exponential of a warp, on all MACHINES."""
    exponentials = machine_code.count_classes(loop)["ex2"]
    return [simulate(loop, warps, machine) / exponentials for machine in MACHINES]


def make_row(loop: list[machine_code.Instruction]) -> dict[str, object]:
    """Returns the table's row of a sweep."""
    counts = machine_code.count_classes(loop)
    row: dict[str, object] = {"instructions": round(len(loop) / counts["ex2"], 2)}
    for warps in WARPS:
        expected, *others = clocks_per_exponential(loop, warps)
        row[f"{warps} warps"] = f"{expected:.1f} ({min(others):.1f} to {max(others):.1f})"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="machine code of qk_importance, as text")
    table = [
        {"file": file.stem, **make_row(loop)}
        for file in parser.parse_args().files
        for loop in machine_code.sweep_loops(machine_code.parse(file.read_text()))
    ]
    print(pandas.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
