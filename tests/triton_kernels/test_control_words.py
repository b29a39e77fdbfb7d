"""The decoded control words of nested_loops.sass, against what they must say for the program to be correct.

A result of unknown duration sets a scoreboard, and its first reader waits for the same one.
"""

from pathlib import Path

import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.control_words import ControlWord


@pytest.fixture(scope="module")
def control():
    """Returns {address: control word} of nested_loops.sass."""
    code = machine_code.parse(Path(__file__).with_name("nested_loops.sass").read_text())
    return {instruction.address: ControlWord.decode(instruction.encoding) for instruction in code}


@pytest.mark.parametrize(
    "producer, consumer",
    [
        (0x70, 0xC0),  # S2R R0; LEA R0, R0, UR5, 0x2
        (0x80, 0xB0),  # S2UR UR5; ULEA UR5, UR5, UR4, 0x18
        (0xD0, 0x110),  # LDC R9; ISETP.GE.AND P1, PT, R9, ...
        (0x180, 0x200),  # LDG.E R2; FFMA R7, R6, R2, R7
        (0x1F0, 0x200),  # MUFU.EX2 R6; FFMA R7, R6, R2, R7
        (0x270, 0x280),  # LDS R8; FADD R5, R8, R5
    ],
)
def test_a_reader_waits_for_the_scoreboard_of_its_operand(control, producer, consumer):
    assert control[producer].write is not None
    assert control[producer].write in control[consumer].waits


@pytest.mark.parametrize(
    "address, stall",
    [
        (0x160, 1),  # MOV R2, UR8: the next instruction does not need R2
        (0x1F0, 2),  # MUFU.EX2
        (0x170, 5),  # IMAD.U32 R3; the load after it reads R3
        (0x280, 6),  # FADD R5
        (0x110, 13),  # ISETP P1; the branch after it reads P1
    ],
)
def test_instructions_of_known_duration_have_a_stall_count(control, address, stall):
    assert control[address].stall == stall
    assert control[0x160].write is None and control[0x160].waits == ()


def test_all_fields_are_read_from_their_bits():
    word = 11 | 1 << 4 | 3 << 5 | 6 << 8 | 0b100001 << 11
    decoded = ControlWord.decode(word << 105 | (1 << 105) - 1)
    assert decoded == ControlWord(stall=11, stays=True, write=3, read=None, waits=(0, 5))
    assert ControlWord.decode((7 << 5 | 4 << 8) << 105) == ControlWord(0, False, None, 4, ())
