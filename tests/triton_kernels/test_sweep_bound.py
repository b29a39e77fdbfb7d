"""The lower bound of the time of qk_importance's sweep, from its machine code."""

from pathlib import Path

import pytest

from benchmarks.machine_code import sweep_bound

SASS = Path(__file__).with_name("nested_loops.sass").read_text()


def test_elements_are_the_visible_pairs_times_the_neurons():
    work = sweep_bound.Work(documents=2, tokens=5, heads=3, size=4, layers=7)
    assert work.elements() == 2 * 3 * 4 * 7 * (1 + 2 + 3 + 4 + 5)
    assert work.elements(rows=2) == 2 * 3 * 4 * 7 * 2 * (2 + 4 + 5)  # the last row's partner is padding


def test_counts_are_divided_by_the_number_of_elements():
    (counts,) = sweep_bound.count_per_element(SASS, elements=2)
    assert (counts["ex2"], counts["fp32"], counts["issued"]) == (0.5, 1.0, 6.0)


@pytest.mark.parametrize("ex2, issued, expected", [(1, 7.5, 8), (1, 9.5, 9.5), (2, 9.5, 16)])
def test_the_slower_of_exponentials_and_issue_determines_the_clocks(ex2, issued, expected):
    assert sweep_bound.clocks({"ex2": ex2, "special": 0, "issued": issued}) == expected


def test_a_second_of_exponentials_takes_1000_milliseconds():
    exponentials = 132 * 16 * 1.755e9  # 132 multiprocessors, 16 per clock each, 1.755 GHz
    assert sweep_bound.milliseconds(8, exponentials) == pytest.approx(1000)
