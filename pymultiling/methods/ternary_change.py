"""How a model's language neurons change, such as by alignment (arXiv 2505.21505)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pymultiling.methods.ternary import KINDS, Ternary
from pymultiling.neurons.sets import NeuronSet

if TYPE_CHECKING:
    import pandas


class TernaryChange(NamedTuple):
    """DataFrames of counts before and after; change = after - before, both = in both, jaccard = both / in either.

    Attributes:
        kinds: a row a kind: before, after, change, both, jaccard.
        layers: layer, kind, before, after, change.
        histogram: a row a number of languages, 0 ... K: before, after, change.
        languages: a row a language, its selected neurons: before, after, both, jaccard.
    """

    kinds: pandas.DataFrame
    layers: pandas.DataFrame
    histogram: pandas.DataFrame
    languages: pandas.DataFrame


def ternary_change(before: Ternary, after: Ternary) -> TernaryChange:
    """What changed between two models of one shape, or two measurements of one model, in the same languages.

    Returns:
        TernaryChange; jaccard is NaN where both sets are empty.

    Raises:
        ValueError: the models have different shapes, or the languages are not the same.
    """
    import pandas

    _require_same(before, after)
    kinds = _sets({kind: getattr(before, kind) for kind in KINDS}, {kind: getattr(after, kind) for kind in KINDS})
    kinds.insert(2, "change", kinds["after"] - kinds["before"])
    layers = before.by_layer().melt("layer", var_name="kind", value_name="before")
    layers["after"] = after.by_layer().melt("layer")["value"]
    histogram = pandas.DataFrame({"before": before.histogram, "after": after.histogram})
    for table in (layers, histogram):
        table["change"] = table["after"] - table["before"]
    languages = _sets(before.neurons, after.neurons)
    return TernaryChange(
        kinds.rename_axis("kind"), layers, histogram.rename_axis("languages"), languages.rename_axis("language")
    )


def _sets(before: Mapping[str, NeuronSet], after: Mapping[str, NeuronSet]) -> pandas.DataFrame:
    """A row a set."""
    import pandas

    rows = {}
    for name, old in before.items():
        new = after[name]
        both, either = len(old & new), len(old | new)
        jaccard = both / either if either else math.nan
        rows[name] = {"before": len(old), "after": len(new), "both": both, "jaccard": jaccard}
    return pandas.DataFrame.from_dict(rows, orient="index")


def _require_same(before: Ternary, after: Ternary) -> None:
    (layers, width), (new_layers, new_width) = (one.general.sites["ffn"].shape for one in (before, after))
    if (layers, width) != (new_layers, new_width):
        raise ValueError(
            f"the models have different shapes: {layers} layers x {width} neurons before, "
            f"{new_layers} x {new_width} after"
        )
    if set(before.neurons) != set(after.neurons):
        raise ValueError(
            f"the languages must be the same: before {', '.join(before.neurons)}, after {', '.join(after.neurons)}"
        )
