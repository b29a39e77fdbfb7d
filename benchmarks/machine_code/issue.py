"""Simulates the issue slots of one scheduler of a multiprocessor, whose warps run the same loop.

A scheduler issues at most one instruction per clock. A warp issues its instructions in order. Its next instruction is
ready when the previous one's stall count has passed, when the scoreboards for which it waits are free, and when its
unit can take it. So time is lost where all resident warps wait at once, and a sweep takes longer than the busiest of
its units.

Assumptions, each with what would refute it:

* Every load hits L1, and every instruction is in the instruction cache. Refuted if Nsight Compute shows stalls "long
  scoreboard" or "no instruction" in the sweeps of more than a few percent.
* Warps start at random points of the loop and stay in the same phase of the kernel. A barrier takes a constant time.
* Registers have no bank conflicts.
* The latencies and rates of units.py, and queues of `Machine.queue` instructions in front of the special function unit,
  the memory unit and the tensor cores. benchmarks/gpu/overlap.py measures a loop for which this simulation predicts the
  time: if the two differ by more than 5%, the rates or the queues are wrong.
"""

import random
from collections import defaultdict
from dataclasses import dataclass
from math import ceil

from benchmarks.machine_code.control_words import SCOREBOARDS, ControlWord
from benchmarks.machine_code.sass import Instruction
from benchmarks.machine_code.units import BARRIER, use_of

MATRIX = SCOREBOARDS  # a scoreboard of the simulation for wgmma, which WARPGROUP.DEPBAR waits for
SETTLE, PASSES = 2, 6  # passes of every warp through the loop: before the measurement, and measured


@dataclass(frozen=True)
class Machine:
    """What is uncertain about a scheduler.

    Attributes:
        name: for tables.
        queue: instructions that wait in front of a unit while their warps go on.
        latency: factor of all latencies.
    """

    name: str
    queue: int
    latency: float


MACHINES = (Machine("expected", 2, 1.0), Machine("fast", 4, 0.8), Machine("slow", 0, 1.25))


@dataclass(frozen=True)
class Step:
    """An instruction, decoded for the simulation. Times are in clocks.

    Attributes:
        unit: name of the unit, or None.
        clocks: how long the unit is busy.
        queue: how long the instruction may wait in the unit's queue while its warp goes on.
        waits: scoreboards that must be free.
        writes: the scoreboard that the result sets, or None.
        result: time from the beginning in the unit to the result.
        reads: the scoreboard that reading the operands sets, or None.
        operands: time from the beginning in the unit until they are read.
        stall: time until the warp's next instruction.
        stays: whether the scheduler goes on with this warp if it can.
    """

    unit: str | None
    clocks: int
    queue: int
    waits: tuple[int, ...]
    writes: int | None
    result: float
    reads: int | None
    operands: float
    stall: int
    stays: bool

    @classmethod
    def of(cls, instruction: Instruction, machine: Machine) -> "Step":
        """Decodes an instruction."""
        control, use = ControlWord.decode(instruction.encoding), use_of(instruction)
        waits_for_matrix = instruction.opcode.startswith("WARPGROUP.DEPBAR")
        return cls(
            unit=use.unit,
            clocks=use.clocks,
            queue=machine.queue * use.clocks if use.is_queued else 0,
            waits=(*control.waits, MATRIX) if waits_for_matrix else control.waits,
            writes=MATRIX if instruction.opcode.startswith("HGMMA") else control.write,
            result=use.clocks + machine.latency * use.latency,
            reads=control.read,
            operands=machine.latency * use.latency / 2,
            stall=BARRIER if instruction.opcode.startswith("BAR.SYNC") else max(1, control.stall),
            stays=control.stays,
        )


class Warp:
    """The state of a warp in a loop.

    Attributes:
        step: its next step.
        ready: the first clock at which the step is ready, apart from its unit.
        passes: how often the warp has finished the loop.
    """

    def __init__(self, steps: list[Step], start: int):
        self._steps, self._at = steps, start
        self._free = [0.0] * (SCOREBOARDS + 1)  # the clock at which each scoreboard is free
        self.step, self.ready, self.passes = steps[start], 0.0, 0

    def advance(self, clock: int, begin: float) -> None:
        """Goes on to the next step after one was issued.

        Args:
            clock: when it was issued.
            begin: when its unit begins with it.
        """
        step, free = self.step, self._free
        if step.writes is not None:
            free[step.writes] = max(free[step.writes], begin + step.result)
        if step.reads is not None:
            free[step.reads] = max(free[step.reads], begin + step.operands)
        self._at += 1
        if self._at == len(self._steps):
            self._at = 0
            self.passes += 1
        self.step = self._steps[self._at]
        self.ready = clock + step.stall
        for scoreboard in self.step.waits:
            self.ready = max(self.ready, free[scoreboard])


def simulate(code: list[Instruction], warps: int, machine: Machine = MACHINES[0], seed: int = 0) -> float:
    """Returns the clocks that a scheduler needs for each pass of a warp through a loop.

    Args:
        code: the instructions of a pass, in the order in which they are executed.
        warps: resident warps of the scheduler.
        machine: the scheduler.
        seed: seed of the points at which warps start.
    """
    known = {instruction.address: instruction for instruction in code}
    decoded = {address: Step.of(instruction, machine) for address, instruction in known.items()}
    steps = [decoded[instruction.address] for instruction in code]
    start = random.Random(seed)
    states = [Warp(steps, start.randrange(len(steps))) for _ in range(warps)]
    unit_free: dict[str | None, float] = defaultdict(float)
    clock, current, stays, ends = 0, 0, True, list[int]()
    while len(ends) < warps * (SETTLE + PASSES):
        ready = [max(warp.ready, unit_free[warp.step.unit] - warp.step.queue) for warp in states]
        clock = max(clock, ceil(min(ready)))
        # The first warp that is ready, beginning with the current one or with the one after it.
        first = current if stays else current + 1
        current = next(i % warps for i in range(first, first + warps) if ready[i % warps] <= clock)
        warp, step, passes = states[current], states[current].step, states[current].passes
        begin: float = clock
        if step.unit is not None:
            begin = max(clock, unit_free[step.unit])
            unit_free[step.unit] = begin + step.clocks
        warp.advance(clock, begin)
        if warp.passes > passes:
            ends.append(clock)
        stays = step.stays
        clock += 1
    return (ends[-1] - ends[warps * SETTLE - 1]) / (warps * PASSES)
