"""The control word of an instruction: what the compiler tells the scheduler of a multiprocessor.

From sm_70 on, an instruction has 128 bits. Bits 105 to 125 tell when the next instruction of the same warp may follow.
Instructions of known duration are separated by a stall count. The others, such as loads and exponentials, announce
their end on one of six scoreboards, for which later instructions wait. Source: Jia et al., "Dissecting the NVIDIA Volta
GPU Architecture via Microbenchmarking", arXiv 1804.06826, section 2.1.
"""

from dataclasses import dataclass

SCOREBOARDS = 6
FIRST_BIT = 105


@dataclass(frozen=True)
class ControlWord:
    """A decoded control word.

    Attributes:
        stall: clocks until the warp may issue its next instruction.
        stays: whether the scheduler should go on with this warp. Otherwise it should prefer another one.
        write: the scoreboard on which the instruction announces its result, or None.
        read: the scoreboard on which it announces that it has read its operands, or None.
        waits: scoreboards that must be free before the instruction is issued.
    """

    stall: int
    stays: bool
    write: int | None
    read: int | None
    waits: tuple[int, ...]

    @classmethod
    def decode(cls, encoding: int) -> "ControlWord":
        """Decodes the control word of an instruction.

        Args:
            encoding: the 128 bits of the instruction.
        """
        word = encoding >> FIRST_BIT
        write, read, mask = word >> 5 & 7, word >> 8 & 7, word >> 11 & 63
        return cls(
            stall=word & 15,
            stays=bool(word >> 4 & 1),
            write=write if write < SCOREBOARDS else None,
            read=read if read < SCOREBOARDS else None,
            waits=tuple(scoreboard for scoreboard in range(SCOREBOARDS) if mask >> scoreboard & 1),
        )
