"""The simulation of issue slots, on loops whose time follows from the units' rates and latencies."""

import pytest

from benchmarks.machine_code.issue import Machine, simulate
from benchmarks.machine_code.sass import Instruction
from benchmarks.machine_code.units import use_of

MACHINE = Machine("test", queue=2, latency=1.0)
NOTHING = 7  # the number of no scoreboard
REPETITIONS = 50  # of a pattern in a loop, so that what is in a queue at the end of the measurement hardly counts


def loop(*instructions):
    """Returns a loop. An instruction is its opcode, stall count, scoreboard to write, and scoreboards to wait for."""
    code = []
    for number, (opcode, stall, write, *waits) in enumerate(instructions):
        word = stall | 1 << 4 | write << 5 | NOTHING << 8 | sum(1 << scoreboard for scoreboard in waits) << 11
        code.append(Instruction(16 * number, opcode, "", word << 105))
    return code


def add(stall=1, *waits):
    return "FADD", stall, NOTHING, *waits


def power(write=NOTHING, *waits):
    return "MUFU.EX2", 1, write, *waits


@pytest.mark.parametrize("warps", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "opcode, clocks",
    [("FADD", 1), ("LOP3.LUT", 2), ("IMAD.MOV.U32", 2), ("MUFU.EX2", 8), ("LDS", 4), ("LDG.E.128", 16), ("BRA", 1)],
)
def test_a_loop_of_one_instruction_runs_at_its_units_rate(opcode, clocks, warps):
    assert simulate(loop(*[(opcode, 1, NOTHING)] * 10), warps, MACHINE) == pytest.approx(10 * clocks)


@pytest.mark.parametrize("warps, clocks", [(1, 40), (2, 20), (4, 10)])
def test_other_warps_use_the_slots_of_a_stalled_warp(warps, clocks):
    assert simulate(loop(*[add(stall=4)] * 10), warps, MACHINE) == pytest.approx(clocks, rel=0.02)


@pytest.mark.parametrize("adds, clocks", [(4, 8), (12, 13)])
def test_the_busier_of_exponentials_and_issue_determines_the_time_of_many_warps(adds, clocks):
    code = loop(*[power(), *[add()] * adds] * REPETITIONS)
    assert simulate(code, 4, MACHINE) == pytest.approx(clocks * REPETITIONS, rel=0.02)


def test_a_single_warp_waits_for_the_result_of_its_exponential():
    latency = use_of(loop(power())[0]).latency
    waiting = loop(*[power(0), add(1, 0)] * REPETITIONS)
    assert simulate(waiting, 1, MACHINE) == pytest.approx((8 + latency + 1) * REPETITIONS)
    assert simulate(waiting, 8, MACHINE) == pytest.approx(8 * REPETITIONS, rel=0.02)


def test_slower_latencies_lengthen_what_waits_for_them():
    waiting = loop(power(0), add(1, 0))
    times = [simulate(waiting, 1, Machine("test", 2, factor)) for factor in (0.5, 1, 2)]
    assert times[1] - times[0] == pytest.approx(10) and times[2] - times[1] == pytest.approx(20)


def test_a_queue_lets_a_warp_go_on_behind_its_exponentials():
    """Three exponentials and then 16 additions: without a queue the additions begin after the third has started."""
    code = loop(*[*[power()] * 3, *[add()] * 16] * REPETITIONS)
    assert simulate(code, 1, Machine("none", 0, 1.0)) == pytest.approx((1 + 2 * 8 + 16) * REPETITIONS)
    assert simulate(code, 1, Machine("two", 2, 1.0)) == pytest.approx(24 * REPETITIONS, rel=0.02)


def test_a_product_of_a_warp_group_is_finished_when_its_warp_waits_for_it():
    product = ("HGMMA.64x16x16.F32.BF16", 1, NOTHING)
    wait = "WARPGROUP.DEPBAR.LE", 1, NOTHING
    alone = simulate(loop(*[product, *[add()] * 4] * REPETITIONS), 1, MACHINE)
    waiting = simulate(loop(*[product, wait, *[add()] * 4] * REPETITIONS), 1, MACHINE)
    assert alone == pytest.approx(16 * REPETITIONS, rel=0.02)
    assert waiting == pytest.approx((16 + use_of(loop(product)[0]).latency + 1 + 4) * REPETITIONS)


@pytest.mark.parametrize(
    "opcode, unit, clocks",
    [
        ("FFMA.FTZ", "fma", 1),
        ("IMAD.WIDE.U32", "integer multiply", 2),
        ("F2FP.BF16.F32.PACK_AB", "alu", 2),
        ("FSETP.GT.AND", "alu", 2),
        ("F2F.F64.F32", "special", 8),
        ("HMMA.16816.F32.BF16", "tensor", 8),
        ("HMMA.1688.F32.BF16", "tensor", 4),
        ("HGMMA.64x128x16.F32.BF16", "tensor", 64),
        ("LDSM.16.M88.4", "memory", 16),
        ("LDG.E.U16", "memory", 4),
        ("SHFL.BFLY", "memory", 4),
        ("LDC.64", None, 1),
        ("LDGDEPBAR", None, 1),
        ("UIADD3", None, 1),
        ("BAR.SYNC.DEFER_BLOCKING", None, 1),
    ],
)
def test_every_opcode_keeps_its_unit_busy(opcode, unit, clocks):
    use = use_of(Instruction(0, opcode, ""))
    assert (use.unit, use.clocks) == (unit, clocks)
