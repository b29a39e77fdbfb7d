"""Numbers of neurons that languages have in common (arXiv 2402.18815, appendix C)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas


class Overlap(NamedTuple):
    """The result of `overlap`. The sets are the rows and the columns of both tables.

    Attributes:
        counts: DataFrame of int, the number of neurons that are in both sets.
        jaccard: DataFrame of float, the neurons in both sets as a fraction of those in at least one of them.
    """

    counts: pandas.DataFrame
    jaccard: pandas.DataFrame

    def __repr__(self) -> str:
        return short_repr(self)


def overlap(sets: Mapping[str, NeuronSet]) -> Overlap:
    """Counts the neurons that every two sets have in common.

        counts[a, b] = |a & b|,    jaccard[a, b] = |a & b| / |a | b|

    Source: arXiv 2402.18815, appendix C, for the counts.

    Args:
        sets: {name: NeuronSet} of one model, such as `Detection.neurons`. `NeuronSet.only` and `NeuronSet.layers`
            restrict sets to sites and layers.

    Returns:
        The two tables as an `Overlap`. The Jaccard index is NaN if both sets are empty.

    Raises:
        ValueError: the sets are of different models.
    """
    import pandas

    shared = {b: {a: len(sets[a] & sets[b]) for a in sets} for b in sets}
    fractions = {b: {a: shared[b][a] / max(len(sets[a] | sets[b]), 1) for a in sets} for b in sets}
    jaccard = pandas.DataFrame(fractions)
    empty = [name for name in sets if len(sets[name]) == 0]
    jaccard.loc[empty, empty] = float("nan")
    return Overlap(pandas.DataFrame(shared), jaccard)
