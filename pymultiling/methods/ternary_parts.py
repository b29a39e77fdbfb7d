"""Divides the layers into parts by the numbers of ternary neurons in each layer (arXiv 2505.21505)."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

PART_NAMES = ("understanding", "shared space", "output transformation", "vocabulary")


def ternary_parts(by_layer: pandas.DataFrame) -> dict[str, range]:
    """Divides the layers into four consecutive parts in which the numbers of ternary neurons are as even as possible.

        minimise  sum over curves, parts and layers of (c[layer] / max c - mean of c / max c in the part)^2

    The best division is found exactly. Of equally good divisions the one with the earliest boundaries is returned. A
    curve that is zero everywhere is not scaled.

    The result is a proposal: it describes the curves and does not prove what the layers do.

    Source: arXiv 2505.21505 for the four parts; the rule that finds them is this package's own.

    Args:
        by_layer: DataFrame as `Ternary.by_layer` returns it: a row for each layer; every column except "layer" is a
            curve c. Values are at least 0.

    Returns:
        {name: range of layers}, none empty. "understanding", "shared space", "output transformation" and "vocabulary"
        are the paper's multilingual understanding, shared semantic space, multilingual output transformation and
        vocabulary space output.

    Raises:
        ValueError: fewer than four layers.
    """
    layers = len(by_layer)
    if layers < len(PART_NAMES):
        raise ValueError(f"four parts need at least four layers, got {layers}")
    curves = [_running_sums(by_layer[name].tolist()) for name in by_layer.columns if name != "layer"]

    @cache
    def cost(start: int, stop: int) -> Fraction:
        """Squared distances to the mean: the sum of squares - the square of the sum / the number of layers."""
        total = Fraction(0)
        for sums, squares in curves:
            total += squares[stop] - squares[start] - (sums[stop] - sums[start]) ** 2 / (stop - start)
        return total

    # {stop: (lowest cost of dividing layers 0 ... stop - 1, boundaries between the parts)}. It begins with one part,
    # and each round adds a part.
    best: dict[int, tuple[Fraction, tuple[int, ...]]] = {stop: (cost(0, stop), ()) for stop in range(1, layers + 1)}
    for _ in PART_NAMES[1:]:
        best = {
            stop: min((best[start][0] + cost(start, stop), (*best[start][1], start)) for start in best if start < stop)
            for stop in range(min(best) + 1, layers + 1)
        }
    bounds = (0, *best[layers][1], layers)
    return {name: range(start, stop) for name, (start, stop) in zip(PART_NAMES, pairwise(bounds))}


def _running_sums(curve: list[float]) -> tuple[list[Fraction], list[Fraction]]:
    """Returns running sums of the curve over its largest value, and of its squares.

    They are fractions, so that equal costs compare as equal.
    """
    largest = Fraction(max(curve)) or Fraction(1)
    values = [Fraction(value) / largest for value in curve]
    return list(accumulate(values, initial=Fraction(0))), list(accumulate((x * x for x in values), initial=Fraction(0)))
