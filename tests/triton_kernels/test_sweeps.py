"""The table of sweeps, for the small kernel nested_loops.sass, whose loop has one exponential and 12 instructions."""

from pathlib import Path

from benchmarks.machine_code import sass as machine_code
from benchmarks.machine_code.sweeps import clocks_per_exponential, make_row

SASS = Path(__file__).with_name("nested_loops.sass")


def test_more_warps_hide_the_latencies_of_one():
    (sweep,) = machine_code.sweep_loops(machine_code.parse(SASS.read_text()))
    expected = [clocks_per_exponential(sweep, warps)[0] for warps in (1, 2, 4, 12)]
    # A single warp waits for the load and the exponential, and then issues what depends on them.
    assert 35 < expected[0] < 100
    assert expected[0] > expected[1] > expected[2] > expected[3] >= 12


def test_the_row_has_the_fast_and_the_slow_machine_behind_the_expected_clocks():
    (sweep,) = machine_code.sweep_loops(machine_code.parse(SASS.read_text()))
    expected, fast, slow = clocks_per_exponential(sweep, 1)
    row = make_row(sweep)
    assert fast < expected < slow
    assert (row["instructions"], row["1 warps"]) == (12.0, f"{expected:.1f} ({fast:.1f} to {slow:.1f})")
