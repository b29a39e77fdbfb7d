"""Changes single instructions of a kernel that works, to see whether the interpreter notices.

A mutant is noticed if a run reports a mistake, or if the results are not those of the kernel. Instructions that a
launch does not execute are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.ptx.encode import BARRIER, SIMPLE, WAIT_FOR_WGMMA
from tests.ptx.interpreter import Executable, Outcome, opcode_numbers

FENCES = ("fence", "bar.warp.sync", "fence.proxy.async", "wgmma.fence", "cp.async.commit_group")
MEMORY = ("ld.shared", "st.shared", "ld.global", "st.global", "cp.async")


@dataclass(frozen=True)
class Mutant:
    """A change of the instruction at `place`. `kind` says what is changed, `line` where in the text."""

    kind: str
    place: int
    line: int
    change: Callable[[np.ndarray], None]


def remove(row: np.ndarray) -> None:
    row["opcode"], row["kind"] = opcode_numbers()["nothing"], SIMPLE


def weaken(row: np.ndarray) -> None:
    row["immediate"] += 1


def shift(row: np.ndarray) -> None:
    """Accesses the next element."""
    row["immediate"] += row["size"]


def relax(row: np.ndarray) -> None:
    row["flags"] = 0


def report(row: np.ndarray) -> None:
    """Makes every execution a mistake: no kernel has so many parameters."""
    row["opcode"], row["kind"], row["results"], row["sources"] = opcode_numbers()["ld.param"], SIMPLE, 0, 1
    row["operands"], row["immediate"], row["size"], row["guard"] = 0, 1 << 40, 4, row["guard"]


def mutants_of(kernel: Executable, every: int = 1) -> Iterator[Mutant]:
    """Yields the mutants of a kernel: every barrier and wait, but only each `every`-th of the accesses to memory."""
    accesses: Counter[str] = Counter()
    for place, x in enumerate(kernel.program.code):
        if x.kind == BARRIER:
            yield Mutant("bar.sync removed", place, x.line, remove)
        elif x.kind == WAIT_FOR_WGMMA:
            yield Mutant("wgmma.wait_group weakened", place, x.line, weaken)
        elif x.opcode == "cp.async.wait_group":
            yield Mutant(f"{x.opcode} weakened", place, x.line, weaken)
        elif x.opcode == "cp.async.wait_all" or x.opcode in FENCES:
            yield Mutant(f"{x.opcode} removed", place, x.line, remove)
        elif x.opcode.startswith("atom.") and x.flags:
            yield Mutant("atom relaxed", place, x.line, relax)
        elif x.opcode in MEMORY:
            accesses[x.opcode] += 1
            if accesses[x.opcode] % every == 0:
                yield Mutant(f"{x.opcode} shifted", place, x.line, shift)


def survivors(
    kernel: Executable, run: Callable[[], Outcome], results: Sequence[np.ndarray], mutants: Sequence[Mutant]
) -> tuple[list[Mutant], int]:
    """Returns the mutants that nobody notices, and how many were tried.

    Args:
        kernel: the kernel.
        run: runs it on fresh memory.
        results: the memory of its results.
        mutants: the changes to try.
    """
    right = run()
    assert right.complaints == 0, right.log
    expected = [x.copy() for x in results]
    alive, tried = [], 0
    for mutant in mutants:
        original = kernel.code[mutant.place].copy()
        report(kernel.code[mutant.place])
        executed = run().complaints > 0
        kernel.code[mutant.place] = original
        if not executed:
            continue
        tried += 1
        mutant.change(kernel.code[mutant.place])
        outcome = run()
        kernel.code[mutant.place] = original
        same = all(np.array_equal(x.view("u1"), y.view("u1")) for x, y in zip(results, expected))
        if outcome.complaints == 0 and same:
            alive.append(mutant)
    return alive, tried
