"""How many neurons languages share (arXiv 2402.18815, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pymultiling.neurons.sets import NeuronSet

if TYPE_CHECKING:
    import pandas


class Overlap(NamedTuple):
    """DataFrames with the sets down and across: `counts` of neurons that both have, and `jaccard` = shared / in either."""

    counts: pandas.DataFrame
    jaccard: pandas.DataFrame


def overlap(sets: Mapping[str, NeuronSet]) -> Overlap:
    """Which neurons of every pair of sets are the same.

        counts[a, b] = |a & b|,    jaccard[a, b] = |a & b| / |a | b|

    Args:
        sets: {name: NeuronSet}, such as `Detection.neurons`; `NeuronSet.only` and `layers` restrict them.

    Returns:
        Overlap; jaccard is NaN where both sets are empty.

    Raises:
        ValueError: the sets are of different models.
    """
    import pandas

    counts = pandas.DataFrame({b: {a: len(sets[a] & sets[b]) for a in sets} for b in sets})
    jaccard = pandas.DataFrame({b: {a: counts.loc[a, b] / max(len(sets[a] | sets[b]), 1) for a in sets} for b in sets})
    empty = [name for name in sets if len(sets[name]) == 0]
    jaccard.loc[empty, empty] = float("nan")
    return Overlap(counts, jaccard)
