"""pml.ternary_parts against all divisions of the layers."""

import random
from itertools import chain, combinations, pairwise

import pandas
import pytest

import pymultiling as pml
from tests.methods.test_lape import continuous_statistics

PART_NAMES = ["understanding", "shared space", "output transformation", "vocabulary"]
KINDS = ("specific", "related", "general")


def table_of(*curves: list[float]) -> pandas.DataFrame:
    return pandas.DataFrame({"layer": range(len(curves[0])), **dict(zip(KINDS, curves))})


def layers_of(parts: dict[str, range]) -> list[list[int]]:
    return [list(layers) for layers in parts.values()]


def plain_cost(curves: list[list[float]], bounds: tuple[int, ...]) -> float:
    total = 0.0
    for curve in curves:
        scaled = [value / (max(curve) or 1) for value in curve]
        for start, stop in pairwise(bounds):
            mean = sum(scaled[start:stop]) / (stop - start)
            total += sum((value - mean) ** 2 for value in scaled[start:stop])
    return total


def test_steps_in_the_curves_are_the_boundaries():
    parts = pml.ternary_parts(table_of([9, 9, 1, 1, 1, 5, 5, 2], [3, 3, 0, 0, 0, 7, 7, 1], [0] * 8))
    assert list(parts) == PART_NAMES
    assert layers_of(parts) == [[0, 1], [2, 3, 4], [5, 6], [7]]
    assert all(type(layers) is range for layers in parts.values())


@pytest.mark.parametrize("seed", range(60))
def test_no_other_division_is_better(seed):
    """Of equally good divisions (to the rounding of the plain sum) the first is returned."""
    draw = random.Random(seed)
    layers = draw.randint(4, 12)
    curves = [[draw.randint(0, draw.choice((1, 3, 50))) for _ in range(layers)] for _ in KINDS]
    divisions = [(0, *inner, layers) for inner in combinations(range(1, layers), 3)]
    costs = {bounds: plain_cost(curves, bounds) for bounds in divisions}
    best = next(bounds for bounds in divisions if costs[bounds] <= min(costs.values()) + 1e-9)
    assert list(pml.ternary_parts(table_of(*curves)).values()) == [range(*pair) for pair in pairwise(best)]


def test_of_equally_good_divisions_the_earliest_is_returned():
    assert layers_of(pml.ternary_parts(table_of([0] * 9, [0] * 9, [0] * 9))) == [[0], [1], [2], [3, 4, 5, 6, 7, 8]]
    assert layers_of(pml.ternary_parts(table_of([1, 1, 1, 3, 3, 3], [0] * 6, [7] * 6))) == [[0], [1], [2], [3, 4, 5]]
    # These sums of squares of thirds are equal, but floats would differ.
    assert layers_of(pml.ternary_parts(table_of([2, 1, 2, 3, 1], [1, 0, 2, 2, 3], [3, 1, 3, 0, 1]))) == [
        [0],
        [1],
        [2],
        [3, 4],
    ]


def test_curves_are_scaled_by_their_largest_value():
    """So a curve of large values and one of small values have the same influence."""
    large, small = [1000, 990, 1000, 990, 1000, 990, 1000, 990], [0, 0, 1, 1, 0, 0, 1, 1]
    assert layers_of(pml.ternary_parts(table_of(large, small, [0] * 8))) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_four_layers_are_enough_and_three_are_refused():
    assert layers_of(pml.ternary_parts(table_of([1, 5, 2, 2]))) == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match=r"^four parts need at least four layers, got 3$"):
        pml.ternary_parts(table_of([1, 2, 3]))


def test_curves_may_be_fractions_or_those_of_a_model():
    """Curves of fractions occur as means over several models."""
    curve = [0.5, 0.5, 2.25, 2.25, 0.1, 0.1, 9.0]
    assert layers_of(pml.ternary_parts(table_of(curve))) == [[0, 1], [2, 3], [4, 5], [6]]
    parts = pml.ternary_parts(pml.ternary(continuous_statistics(0, layers=7), top=0.2, lam=0.1).by_layer())
    assert list(chain.from_iterable(layers_of(parts))) == list(range(7))
