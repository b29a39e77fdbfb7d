"""The phases of qk_importance and qk_estimate, found in their machine code, and how often an item runs each of them.

An item is a tile of query rows of a head, which sees a number of keys. Its phases are loops over keys or rows, with the
loops inside them. They are recognised by their order in the code and by their exponentials. The code of the item that
belongs to no phase runs once. Code that ordinary attention scores do not need (sums from logarithms, the sum of the
tiles by the last program) is left out: a test on a GPU that counts how often it runs would refute this.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.issue import Machine, simulate
from pymultiling.triton_kernels.qk_means import VALUES
from pymultiling.triton_kernels.qk_sweep import ROWS

KEYS = 64  # of a tile in bfloat16
Code = list[machine_code.Instruction]


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel with the loops inside it, in the order of the code."""

    code: Code
    inner: list["Loop"]

    @property
    def exponentials(self) -> int:
        return machine_code.count_classes(self.code)["ex2"]

    def own(self) -> Code:
        """Returns the instructions outside the inner loops."""
        inside = {instruction.address for loop in self.inner for instruction in loop.code}
        return [instruction for instruction in self.code if instruction.address not in inside]

    def with_inner(self, passes: int) -> Code:
        """Returns the instructions of one pass in which the only inner loop makes a number of passes."""
        (inner,) = self.inner
        first, last = inner.code[0].address, inner.code[-1].address
        before = [instruction for instruction in self.code if instruction.address < first]
        after = [instruction for instruction in self.code if instruction.address > last]
        return before + inner.code * passes + after


@dataclass(frozen=True)
class Phase:
    """A phase of an item.

    Attributes:
        name: for tables.
        code: the instructions of one pass.
        passes: returns how many passes an item makes that sees a number of keys, and the passes need not be whole.
    """

    name: str
    code: Code
    passes: Callable[[int], float]


def clocks_of_items(phases: list[Phase], items: Iterable[int], warps: int, machine: Machine) -> float:
    """Returns the clocks of a scheduler for items, one warp each, while `warps` warps are resident.

    Args:
        phases: of an item.
        items: the number of keys that each item sees.
        warps: resident warps of a scheduler.
        machine: the scheduler.
    """
    items = list(items)
    return sum(simulate(phase.code, warps, machine) * sum(map(phase.passes, items)) for phase in phases)


def item_loop(code: Code) -> Loop:
    """Returns the loop over items, which is the longest one, with all loops inside it."""
    found: list[Loop] = []
    for loop in machine_code.find_loops(code):  # inner loops come first
        inside = [other for other in found if loop[0].address <= other.code[0].address <= loop[-1].address]
        found = [other for other in found if other not in inside]
        found.append(Loop(loop, sorted(inside, key=lambda other: other.code[0].address)))
    return max(found, key=lambda loop: len(loop.code))


def phases_of_importance(code: Code) -> list[Phase]:
    """Returns the phases of Triton's qk_importance for heads that are rotated or have norms.

    The loops of an item are the softmax, the query sweep (a loop over tiles around a loop over keys) and its two
    repetitions from logarithms, the means of the key neurons, the key sweep and its two repetitions, and the sum of all
    tiles. The first sweep is within a loop that repeats it if digits were lost.
    """
    item = item_loop(code)
    softmax, query, _online, _careful, means, key, *_ = item.inner
    unroll = query.inner[0].inner[0].exponentials // ROWS.value
    return [
        Phase("softmax", softmax.code, lambda keys: ceil(keys / VALUES.value)),
        Phase("means of key neurons", means.code, lambda keys: ceil(keys / VALUES.value)),
        *(
            Phase(name, sweep.inner[0].with_inner(KEYS // unroll), lambda keys: ceil(keys / unroll) * unroll / KEYS)
            for name, sweep in (("query sweep", query), ("key sweep", key))
        ),
        Phase("once", _usual_code(item) + query.own() + key.own(), lambda keys: 1),
    ]


def phases_of_estimate(code: Code, threads: int = 128) -> list[Phase]:
    """Returns the phases of Triton's qk_estimate for heads that are rotated or have norms.

    The loops of an item are the attention scores, the choice of slots (loops over tiles of keys, some of which take
    several tiles in a pass), the sums of rows with few keys, the sums of other rows, the sums from logarithms, and the
    sum of all tiles.
    """
    item = item_loop(code)
    scores, *choice, _few, rows, _careful, _add_up = item.inner
    return [
        Phase("attention scores", scores.code, lambda keys: ceil(keys / KEYS)),
        *(_choice(loop.code, threads) for loop in choice),
        Phase("rows", rows.code, lambda keys: ROWS.value),
        Phase("once", _usual_code(item), lambda keys: 1),
    ]


def _choice(code: Code, threads: int) -> Phase:
    """Returns the phase of a loop over tiles of attention scores, of which a program's threads load some in a pass."""
    loads = sum(instruction.opcode == "LDG.E.128" for instruction in code)
    tiles = loads * 4 * threads // (ROWS.value * KEYS)
    return Phase("choice of keys", code, lambda keys: ceil(keys / KEYS) / tiles)


def _usual_code(item: Loop) -> Code:
    """Returns the item's own code without what ordinary items skip: code that a branch over several loops skips."""
    own = item.own()
    skipped: set[int] = set()
    for branch in own:
        if branch.target is not None and branch.target > branch.address:
            jumped = [loop for loop in item.inner if branch.address < loop.code[0].address < branch.target]
            if len(jumped) > 1:
                skipped |= set(range(branch.address + 16, branch.target, 16))
    return [instruction for instruction in own if instruction.address not in skipped]


def cuda_sweep(code: Code) -> tuple[Code, int]:
    """Returns one pass of the sweep of the CUDA C++ kernel, and its elements of a lane.

    The sweep's loop has four pieces without branches that compute three exponentials for four elements, and four for
    keys that need four exponentials, which are left out.
    """
    loop = max(machine_code.innermost_loops(code), key=lambda loop: machine_code.count_classes(loop)["ex2"])
    pieces: list[Code] = [[]]
    for instruction in loop:
        pieces[-1].append(instruction)
        if instruction.target is not None:
            pieces.append([])
    largest = max(machine_code.count_classes(piece)["ex2"] for piece in pieces)
    usual = [piece for piece in pieces if machine_code.count_classes(piece)["ex2"] < largest]
    exponentials = sum(machine_code.count_classes(piece)["ex2"] for piece in usual)
    return [instruction for piece in usual for instruction in piece], exponentials * 4 // 3
