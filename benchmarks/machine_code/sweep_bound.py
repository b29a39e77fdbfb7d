"""Compares qk_importance with its lower bound, the time of the exponentials, from its machine code for an H100.

    python -m benchmarks.machine_code.compile_table --operator qk_importance --target sm_90 --code FOLDER
    python -m benchmarks.machine_code.sweep_bound [--elements 128] FOLDER/*.txt

An element is one (query row, key, neuron) of a sweep and needs one exponential. A warp instruction handles one element
per lane. The columns count the instructions of a sweep's innermost loop per element of a lane, averaged over the
kernel's sweeps. A sub-partition of a multiprocessor issues one warp instruction per clock, and its special function
unit takes 8 clocks for an exponential of a warp (4 lanes per clock). The larger of the two times is the time of an
element if everything overlaps that can, so the bound is 8 clocks.

If the column ex2 is not 1, --elements is not the number of elements of an iteration. Soft-capped attention scores have
their own loop of 16 elements with more than one power per element.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas

from benchmarks.machine_code import sass as machine_code

LANES = 32  # of a warp
SUB_PARTITIONS = 132 * 4  # of an H100: 4 for each multiprocessor
CLOCK = 1.755e9  # Hz
SPECIAL = 8  # clocks of the special function unit for an exponential of a warp


@dataclass(frozen=True)
class Work:
    """The size of a forward: every query head of every layer visits all causal keys, for every neuron."""

    documents: int = 8
    tokens: int = 512
    heads: int = 32
    size: int = 128
    layers: int = 32

    def elements(self, rows: int = 1) -> int:
        """Returns the elements of one sweep whose programs take `rows` queries at a time.

        All queries of a program visit the keys of its last query.
        """
        keys = sum(min(first + rows, self.tokens) for first in range(0, self.tokens, rows))
        return self.layers * self.documents * self.heads * self.size * rows * keys


def count_per_element(sass: str, elements: float) -> list[dict[str, float]]:
    """Counts the instructions per element of every sweep. Sweeps are the innermost loops with the most exponentials.

    Args:
        sass: machine code.
        elements: elements of a lane in one iteration of the innermost loop.

    Returns:
        {class: instructions} of every sweep, where "issued" is the sum of all classes.
    """
    sweeps = [machine_code.count_classes(loop) for loop in machine_code.sweep_loops(machine_code.parse(sass))]
    return [
        {kind: number / elements for kind, number in {**counts, "issued": sum(counts.values())}.items()}
        for counts in sweeps
    ]


def clocks(counts: dict[str, float]) -> float:
    """Returns the clocks that a sub-partition takes for one element of every lane of a warp.

    Args:
        counts: {class: instructions per element}, as `count_per_element` returns them.
    """
    return max(SPECIAL * (counts["ex2"] + counts["special"]), counts["issued"])


def milliseconds(clocks: float, elements: float) -> float:
    """Returns the time that a GPU takes for `elements`. `clocks` are those of an element of every lane of a warp."""
    return 1e3 * clocks * elements / (LANES * SUB_PARTITIONS * CLOCK)


def make_row(sass: str, elements: float, rows: int) -> dict[str, float]:
    """Returns the table's row of a kernel.

    Args:
        sass: machine code.
        elements: elements of a lane in one iteration of the innermost loop.
        rows: queries that a program takes at a time.
    """
    sweeps = count_per_element(sass, elements)
    time = sum(milliseconds(clocks(counts), Work().elements(rows)) for counts in sweeps)
    bound = len(sweeps) * milliseconds(SPECIAL, Work().elements())
    return {
        "sweeps": len(sweeps),
        **{kind: round(sum(counts[kind] for counts in sweeps) / len(sweeps), 3) for kind in sweeps[0]},
        "clocks": round(sum(map(clocks, sweeps)) / len(sweeps), 2),
        "of the bound": round(bound / time, 3),
        "ms": round(time, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="machine code of qk_importance, as text")
    parser.add_argument(
        "--elements",
        type=float,
        default=128,
        help="elements of a lane in one iteration: rows x keys of its neuron (%(default)s)",
    )
    parser.add_argument("--rows", type=int, default=16, help="queries that a program takes at a time (%(default)s)")
    options = parser.parse_args()
    table = [
        {"file": file.stem, **make_row(file.read_text(), options.elements, options.rows)} for file in options.files
    ]
    print(pandas.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    main()
