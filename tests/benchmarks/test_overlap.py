"""The predictions of the overlap benchmark, which need no GPU."""

import pytest

from tests.support.programs import run_module

pytestmark = pytest.mark.long


def test_more_warps_come_closer_to_the_rate_of_exponentials():
    completed = run_module("benchmarks.gpu.overlap", "--predict", TRITON_INTERPRET="0")
    assert completed.returncode == 0, completed.stderr
    rows = [line.split() for line in completed.stdout.splitlines()[2:]]
    clocks = [float(predicted) for _warps, predicted in rows]
    assert [warps for warps, _predicted in rows] == ["2", "3", "4"]
    # 7.6 instructions are issued for each exponential, which takes 8 clocks: several warps hide their latencies.
    assert 12 > clocks[0] > max(clocks[1:])
    assert 8 <= min(clocks[1:]) and max(clocks[1:]) < 8.6
