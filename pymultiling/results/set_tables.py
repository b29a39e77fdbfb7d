"""The members of a set of neurons as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymultiling.neurons.sites import SITES

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.importance_statistics import NeuronStatistics
    from pymultiling.neurons.sets import NeuronSet


def member_table(
    neurons: NeuronSet, statistics: NeuronStatistics | None = None, top: int | None = None
) -> pandas.DataFrame:
    """Lists the members of a set.

    Args:
        neurons: the set.
        statistics: those that the set was selected from, for the columns `score` and `votes`.
        top: how many neurons of each site to list; None: all.

    Returns:
        A row for each neuron: layer, site, index; with statistics also score, the mean importance over the documents,
        and votes, the fraction of the documents in which the rule of the statistics selected the neuron. Within each
        site the neurons with the highest score come first; without statistics, those of the first layers.

    Raises:
        ValueError: the statistics have no values for a site, or are of another model.
    """
    import pandas

    tables = []
    for site, mask in neurons.sites.items():
        layers, indices = mask.nonzero(as_tuple=True)
        table = pandas.DataFrame({"layer": layers.numpy(), "site": site, "index": indices.numpy()})
        if statistics is not None:
            if site not in statistics.sum or statistics.sum[site].shape != mask.shape:
                raise ValueError(f"the statistics have no values for these neurons of {site}: give those of one model")
            table["score"] = statistics.mean(site)[mask].numpy()
            table["votes"] = (statistics.votes[site][mask] / max(statistics.documents, 1)).numpy()
            table = table.sort_values("score", ascending=False, kind="stable")
        tables.append(table.head(top) if top is not None else table)
    return pandas.concat(tables, ignore_index=True)


def layer_table(neurons: NeuronSet) -> pandas.DataFrame:
    """Counts the members of a set: a row for each layer and one for all layers, a column for each site and for all."""
    import pandas

    counts = pandas.DataFrame(neurons.count("layer"), columns=[site for site in SITES if site in neurons.sites])
    counts["total"] = counts.sum(axis=1)
    counts.loc["total"] = counts.sum()
    counts.index.name = "layer"
    return counts
