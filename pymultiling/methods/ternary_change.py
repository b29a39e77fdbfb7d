"""How the ternary neurons of a model change, for example by alignment (arXiv 2505.21505)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pymultiling.methods.ternary import Ternary, sets_by_kind
from pymultiling.neurons.sets import NeuronSet
from pymultiling.runtime.short_repr import short_repr

if TYPE_CHECKING:
    import pandas


class TernaryChange(NamedTuple):
    """The result of `ternary_change`: four DataFrames with numbers of neurons before and after.

    In all of them change = after - before, both = the neurons in both sets, and jaccard = both / the neurons in at
    least one of the two sets.

    Attributes:
        kinds: a row for each kind (specific, related, general). Columns: before, after, change, both, jaccard.
        layers: a row for each kind and layer. Columns: layer, kind, before, after, change.
        histogram: a row for each number of languages, 0 ... K. Columns: before, after, change.
        languages: a row for each language, about its selected neurons. Columns: before, after, both, jaccard.
    """

    kinds: pandas.DataFrame
    layers: pandas.DataFrame
    histogram: pandas.DataFrame
    languages: pandas.DataFrame

    def __repr__(self) -> str:
        return short_repr(self)


def ternary_change(before: Ternary, after: Ternary) -> TernaryChange:
    """Compares the ternary neurons of two models of the same shape, or of two measurements of one model.

    Source: arXiv 2505.21505, which compares models before and after alignment.

    Args:
        before: the result of `ternary` for the first model.
        after: the result of `ternary` for the second model, in the same languages.

    Returns:
        A `TernaryChange`. A Jaccard index is NaN if both sets are empty.

    Raises:
        ValueError: the models have different shapes, or the languages are not the same.
    """
    import pandas

    _require_same(before, after)
    kinds = _compare_sets(sets_by_kind(before), sets_by_kind(after))
    kinds.insert(2, "change", kinds["after"] - kinds["before"])
    layers = before.by_layer().melt("layer", var_name="kind", value_name="before")
    layers["after"] = after.by_layer().melt("layer")["value"]
    histogram = pandas.DataFrame({"before": before.histogram, "after": after.histogram})
    for table in (layers, histogram):
        table["change"] = table["after"] - table["before"]
    languages = _compare_sets(before.neurons, after.neurons)
    return TernaryChange(
        kinds.rename_axis("kind"), layers, histogram.rename_axis("languages"), languages.rename_axis("language")
    )


def _compare_sets(before: Mapping[str, NeuronSet], after: Mapping[str, NeuronSet]) -> pandas.DataFrame:
    """Returns a table with a row for each name. Columns: before, after, both, jaccard."""
    import pandas

    rows = {}
    for name, old in before.items():
        new = after[name]
        both, either = len(old & new), len(old | new)
        jaccard = both / either if either else math.nan
        rows[name] = {"before": len(old), "after": len(new), "both": both, "jaccard": jaccard}
    return pandas.DataFrame.from_dict(rows, orient="index")


def _require_same(before: Ternary, after: Ternary) -> None:
    layers, width = before.general.sites["ffn"].shape
    new_layers, new_width = after.general.sites["ffn"].shape
    if (layers, width) != (new_layers, new_width):
        raise ValueError(
            f"the models have different shapes: {layers} layers x {width} neurons before, "
            f"{new_layers} x {new_width} after"
        )
    if set(before.neurons) != set(after.neurons):
        raise ValueError(
            f"the languages must be the same: before {', '.join(before.neurons)}, after {', '.join(after.neurons)}"
        )
