"""The loops of nested_loops.sass as phases: a loop over rows (0xd0 to 0x290) around columns (0x160 to 0x210)."""

from pathlib import Path

import pytest

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.issue import MACHINES, simulate

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.machine_code.phases import Phase, clocks_of_items, item_loop

INNER = 12  # instructions from 0x160 to 0x210
OUTER = 29  # from 0xd0 to 0x290


@pytest.fixture(scope="module")
def rows():
    return item_loop(machine_code.parse(Path(__file__).with_name("nested_loops.sass").read_text()))


def test_the_longest_loop_contains_the_loops_inside_it(rows):
    assert (rows.code[0].address, rows.code[-1].address) == (0xD0, 0x290)
    assert [loop.code[0].address for loop in rows.inner] == [0x160]


def test_own_instructions_are_those_outside_the_inner_loops(rows):
    assert len(rows.own()) == OUTER - INNER
    assert not {instruction.address for instruction in rows.own()} & set(range(0x160, 0x220, 16))


@pytest.mark.parametrize("passes", [0, 1, 5])
def test_the_inner_loop_is_executed_where_it_stands(rows, passes):
    addresses = [instruction.address for instruction in rows.with_inner(passes)]
    inner = list(range(0x160, 0x220, 16))
    assert addresses == list(range(0xD0, 0x160, 16)) + inner * passes + list(range(0x220, 0x2A0, 16))


def test_the_clocks_of_items_are_those_of_their_passes(rows):
    phases = [
        Phase("rows", rows.with_inner(4), lambda keys: keys / 4),
        Phase("once", rows.own(), lambda keys: 1),
    ]
    each = [simulate(phase.code, 2, MACHINES[0]) for phase in phases]
    # 8 / 4 + 12 / 4 passes of the first phase, and one pass of the second for both items
    assert clocks_of_items(phases, (8, 12), 2, MACHINES[0]) == pytest.approx(5 * each[0] + 2 * each[1])
