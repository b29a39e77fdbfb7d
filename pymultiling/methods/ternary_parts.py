"""Which layers do what, proposed from how many neurons of each kind they have (arXiv 2505.21505)."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

PART_NAMES = ("understanding", "shared space", "output transformation", "vocabulary")


def ternary_parts(by_layer: pandas.DataFrame) -> dict[str, range]:
    """Four consecutive runs of layers in which the kinds of neurons are as even as can be.

        the division that minimises  sum over curves, runs and layers of (c[layer] / max c - mean of it in the run)^2

    found exactly; of equally good divisions the one with the earliest boundaries. A curve of zeros stays as it is. The
    four parts are those of the paper, the rule is not. It makes a proposal, which describes the curves and does not
    prove what the layers do.

    Args:
        by_layer: of `Ternary.by_layer`: a row a layer, a curve a column other than "layer".

    Returns:
        {"understanding", "shared space", "output transformation", "vocabulary": range of layers}, none empty: in the
        paper multilingual understanding, shared semantic space, multilingual output transformation, vocabulary output.

    Raises:
        ValueError: fewer than four layers.
    """
    layers = len(by_layer)
    if layers < len(PART_NAMES):
        raise ValueError(f"four parts need at least four layers, got {layers}")
    curves = [_sums(by_layer[name].tolist()) for name in by_layer.columns if name != "layer"]

    @cache
    def cost(start: int, stop: int) -> Fraction:
        """Squared distances to the mean: the sum of squares - the square of the sum / how many."""
        total = Fraction(0)
        for sums, squares in curves:
            total += squares[stop] - squares[start] - (sums[stop] - sums[start]) ** 2 / (stop - start)
        return total

    # best[stop]: the lowest cost of the layers before stop in so many runs, and where the runs after the first start.
    best = {stop: (cost(0, stop), ()) for stop in range(1, layers + 1)}
    for _ in PART_NAMES[1:]:
        best = {
            stop: min((best[start][0] + cost(start, stop), (*best[start][1], start)) for start in best if start < stop)
            for stop in range(min(best) + 1, layers + 1)
        }
    bounds = (0, *best[layers][1], layers)
    return {name: range(start, stop) for name, (start, stop) in zip(PART_NAMES, pairwise(bounds))}


def _sums(curve: list[float]) -> tuple[list[Fraction], list[Fraction]]:
    """Of the curve over its largest value, running sums of values and of squares; fractions, so that ties are equal."""
    largest = Fraction(max(curve)) or Fraction(1)
    values = [Fraction(value) / largest for value in curve]
    return list(accumulate(values, initial=Fraction(0))), list(accumulate((x * x for x in values), initial=Fraction(0)))
