import random
from itertools import combinations, pairwise

import pandas
import pytest

import pymultiling as pml
from tests.methods.test_lape import continuous

NAMES = ["understanding", "shared space", "output transformation", "vocabulary"]
KINDS = ("specific", "related", "general")


def table(*curves: list[float]) -> pandas.DataFrame:
    return pandas.DataFrame({"layer": range(len(curves[0])), **dict(zip(KINDS, curves))})


def runs(found: dict[str, range]) -> list[list[int]]:
    return [list(layers) for layers in found.values()]


def plain_cost(curves: list[list[float]], bounds: tuple[int, ...]) -> float:
    total = 0.0
    for curve in curves:
        scaled = [value / (max(curve) or 1) for value in curve]
        for start, stop in pairwise(bounds):
            mean = sum(scaled[start:stop]) / (stop - start)
            total += sum((value - mean) ** 2 for value in scaled[start:stop])
    return total


def test_steps():
    found = pml.ternary_parts(table([9, 9, 1, 1, 1, 5, 5, 2], [3, 3, 0, 0, 0, 7, 7, 1], [0] * 8))
    assert list(found) == NAMES
    assert runs(found) == [[0, 1], [2, 3, 4], [5, 6], [7]]
    assert all(type(layers) is range for layers in found.values())


@pytest.mark.parametrize("seed", range(60))
def test_every_division(seed):
    """The best of all divisions; of equally good ones (to the rounding of this plain sum) the first."""
    draw = random.Random(seed)
    layers = draw.randint(4, 12)
    curves = [[draw.randint(0, draw.choice((1, 3, 50))) for _ in range(layers)] for _ in KINDS]
    divisions = [(0, *inner, layers) for inner in combinations(range(1, layers), 3)]
    costs = {bounds: plain_cost(curves, bounds) for bounds in divisions}
    best = next(bounds for bounds in divisions if costs[bounds] <= min(costs.values()) + 1e-9)
    assert list(pml.ternary_parts(table(*curves)).values()) == [range(*pair) for pair in pairwise(best)]


def test_ties():
    assert runs(pml.ternary_parts(table([0] * 9, [0] * 9, [0] * 9))) == [[0], [1], [2], [3, 4, 5, 6, 7, 8]]
    assert runs(pml.ternary_parts(table([1, 1, 1, 3, 3, 3], [0] * 6, [7] * 6))) == [[0], [1], [2], [3, 4, 5]]
    # Equal sums of squares of thirds, which floats would not find equal.
    assert runs(pml.ternary_parts(table([2, 1, 2, 3, 1], [1, 0, 2, 2, 3], [3, 1, 3, 0, 1]))) == [[0], [1], [2], [3, 4]]


def test_every_curve_counts_as_much():
    """A large curve and a small one: each is divided by its own largest value."""
    large, small = [1000, 990, 1000, 990, 1000, 990, 1000, 990], [0, 0, 1, 1, 0, 0, 1, 1]
    assert runs(pml.ternary_parts(table(large, small, [0] * 8))) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_few_layers():
    assert runs(pml.ternary_parts(table([1, 5, 2, 2]))) == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match=r"^four parts need at least four layers, got 3$"):
        pml.ternary_parts(table([1, 2, 3]))


def test_fractions_and_a_model():
    """Means of several models' counts serve too."""
    curve = [0.5, 0.5, 2.25, 2.25, 0.1, 0.1, 9.0]
    assert runs(pml.ternary_parts(table(curve))) == [[0, 1], [2, 3], [4, 5], [6]]
    found = pml.ternary_parts(pml.ternary(continuous(0, layers=7), top=0.2, lam=0.1).by_layer())
    assert sum(runs(found), []) == list(range(7))
