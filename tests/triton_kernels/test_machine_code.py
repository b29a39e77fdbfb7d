"""The parser of machine code, on nested_loops.sass for sm_90a.

This kernel has a loop over rows around a loop over columns (e = exp2(total - column); sum += e x[column]), and then a
third loop (total *= total).
"""

from pathlib import Path

import pytest

from benchmarks.machine_code import sass as machine_code


@pytest.fixture(scope="module")
def code():
    """Returns the instructions of nested_loops.sass."""
    return machine_code.parse(Path(__file__).with_name("nested_loops.sass").read_text())


def spans(loops):
    """Returns the first and the last address of each loop."""
    return [(loop[0].address, loop[-1].address) for loop in loops]


def test_every_instruction_is_read_once(code):
    assert [instruction.address for instruction in code] == list(range(0, 0x360, 16))
    assert (code[-3].opcode, code[-2].opcode, code[-1].opcode) == ("STG.E", "EXIT", "BRA")


def test_the_predicate_is_not_part_of_the_opcode(code):
    branch = next(instruction for instruction in code if instruction.address == 0x210)
    assert (branch.opcode, branch.target) == ("BRA", 0x160)


def test_inner_loops_come_first_and_a_branch_to_itself_is_no_loop(code):
    assert spans(machine_code.find_loops(code)) == [(0x160, 0x210), (0xD0, 0x290), (0x2F0, 0x320)]


def test_innermost_loops_contain_no_loop(code):
    assert spans(machine_code.innermost_loops(code)) == [(0x160, 0x210), (0x2F0, 0x320)]


def test_sweeps_are_the_loops_with_the_exponentials(code):
    (sweep,) = machine_code.sweep_loops(code)
    assert {kind: number for kind, number in machine_code.count_classes(sweep).items() if number} == {
        "ex2": 1,
        "fp32": 2,
        "global": 1,
        "convert": 1,
        "other": 7,
    }


@pytest.mark.parametrize(
    "opcode, kind",
    [
        ("MUFU.EX2", "ex2"),
        ("MUFU.EX2.F16", "ex2"),
        ("MUFU.RCP", "special"),
        ("HMMA.16816.F32.BF16", "tensor"),
        ("HGMMA.64x128x16.F32.BF16", "tensor"),
        ("UTCHMMA", "tensor"),
        ("FFMA2", "fp32"),
        ("FFMA.FTZ", "fp32"),
        ("LDSM.16.M88.4", "shared"),
        ("LDGSTS.E.BYPASS.128", "global"),
        ("LDGDEPBAR", "barrier"),
        ("STL.64", "local"),
        ("SHFL.BFLY", "shuffle"),
        ("F2FP.BF16.F32.PACK_AB", "convert"),
        ("HADD2.F32", "convert"),
        ("HADD2.BF16_V2", "other"),
        ("FMNMX", "other"),
        ("IMAD.MOV.U32", "other"),
    ],
)
def test_every_opcode_has_the_class_of_the_unit_that_runs_it(opcode, kind):
    assert machine_code.Instruction(0, opcode, "").kind == kind
