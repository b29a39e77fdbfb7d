"""The workload of the predictions, against the rate of exponentials of a chip: 16 per clock and multiprocessor."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.machine_code.predict import items, milliseconds
from benchmarks.operators.shapes import LLAMA_31_8B


def test_the_exponentials_of_the_workload_take_the_time_of_the_chips_rate():
    """A tile of 16 rows visits the keys up to its last row, for 256 query and key neurons. A head has 32 tiles."""
    visits = 16 * sum(16 * (tile + 1) for tile in range(32))
    assert 16 * sum(items(LLAMA_31_8B)) == visits
    exponentials = 32 * 8 * 32 * 256 * visits  # layers, documents, heads
    clocks_of_a_head = 256 * visits / 32 / 4 * 8  # lanes of a warp, schedulers, clocks of an exponential
    assert milliseconds(clocks_of_a_head, LLAMA_31_8B) == pytest.approx(1e3 * exponentials / (132 * 16 * 1.755e9))
