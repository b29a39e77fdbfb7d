"""qk_importance against its bound, the exponentials: what the machine code of its sweeps will take on an H100.

    python -m benchmarks.machine_code.compile_table --operator qk_importance --target sm_90 --code FOLDER
    python -m benchmarks.machine_code.sweep_bound [--elements 128] FOLDER/*.txt

An element is one (query row, key, neuron) of a sweep: one exponential. A warp instruction handles one element of every lane.
Counts are the instructions of a sweep's innermost loop per element of a lane, the mean over the kernel's sweeps. A
sub-partition issues one warp instruction a clock, and its special function unit takes 8 clocks for one (4 lanes a clock). The
larger of the two is the time of an element, if everything overlaps that can; the bound is 8. An ex2 that is not 1 says that
--elements is not what an iteration handles (soft-capped scores have a loop of their own, 16, with more than one power).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas

from benchmarks.machine_code import sass as machine_code

LANES = 32
SUB_PARTITIONS = 132 * 4
CLOCK = 1.755e9  # Hz
SPECIAL = 8  # clocks


@dataclass(frozen=True)
class Work:
    """What is swept: every key that a query sees, of every query head, for every neuron."""

    documents: int = 8
    tokens: int = 512
    heads: int = 32
    size: int = 128
    layers: int = 32

    def elements(self, rows: int = 1) -> int:
        """Of one sweep, of programs that take `rows` queries at a time and read the same keys for all of them."""
        keys = sum(min(first + rows, self.tokens) for first in range(0, self.tokens, rows))
        return self.layers * self.documents * self.heads * self.size * rows * keys


def count_per_element(sass: str, elements: float) -> list[dict[str, float]]:
    """For every sweep {class: instructions}, with "issued", all of them, where an iteration handles `elements` of a lane."""
    found = [machine_code.count_classes(loop) for loop in machine_code.sweep_loops(machine_code.parse(sass))]
    return [
        {kind: number / elements for kind, number in {**counts, "issued": sum(counts.values())}.items()}
        for counts in found
    ]


def clocks(counts: dict[str, float]) -> float:
    """Of a sub-partition, for an element of every lane of a warp."""
    return max(SPECIAL * (counts["ex2"] + counts["special"]), counts["issued"])


def milliseconds(clocks: float, elements: int) -> float:
    return 1e3 * clocks * elements / (LANES * SUB_PARTITIONS * CLOCK)


def row(sass: str, elements: float, rows: int) -> dict:
    sweeps = count_per_element(sass, elements)
    time = sum(milliseconds(clocks(counts), Work().elements(rows)) for counts in sweeps)
    least = len(sweeps) * milliseconds(SPECIAL, Work().elements())
    return {
        "sweeps": len(sweeps),
        **{kind: round(sum(counts[kind] for counts in sweeps) / len(sweeps), 3) for kind in sweeps[0]},
        "clocks": round(sum(map(clocks, sweeps)) / len(sweeps), 2),
        "of the bound": round(least / time, 3),
        "ms": round(time, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="machine code")
    parser.add_argument(
        "--elements", type=float, default=128, help="of a lane in one iteration: rows x keys of its neuron"
    )
    parser.add_argument("--rows", type=int, default=16, help="queries that a program takes at a time")
    options = parser.parse_args()
    found = [{"file": file.stem, **row(file.read_text(), options.elements, options.rows)} for file in options.files]
    print(pandas.DataFrame(found).to_string(index=False))


if __name__ == "__main__":
    main()
