"""Neurons of languages by layer and site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymultiling.results.report.figures import (
    PERCENT,
    ROW_HEIGHT,
    WHOLE,
    Cell,
    Column,
    Figure,
    heat_map,
    highest,
    rows_of,
)
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.sets import NeuronSet

PLND, LAPE = "arXiv 2402.18815, eq. 1 and 2, and its published code", "arXiv 2402.16438, section 2"
TERNARY = "arXiv 2505.21505, eq. 5 and 6"
LANGUAGE = Column("language", "language", control="language")
LAYER, SITE = Column("layer", "layer", control="layer"), Column("site", "site", control="site")
COLUMNS = (
    LANGUAGE,
    LAYER,
    SITE,
    Column("share", "share of the layer's neurons", PERCENT),
    Column("neurons", "neurons", WHOLE),
)
KINDS = {
    "selected": ("Neurons selected for a language", "selected for the language"),
    "specific": ("Neurons selected for one language alone", "selected for the language and for no other one"),
}


def figures(results: Results) -> list[Figure]:
    """Makes a heat map of the selected neurons, and one of those that no other language has."""
    source = _source(results)
    if results.has("report.csv"):
        report = results.table("report.csv", ("language", "site"))
        widths = _widths(next(iter(results.sets("neurons").values())))
        return [_figure(kind, report.assign(neurons=report[kind]), widths, source) for kind in KINDS]
    sets = results.sets("neurons")
    if not sets:
        return []
    widths = _widths(next(iter(sets.values())))
    return [_figure("selected", count_by_layer(sets), widths, source)]


def count_by_layer(sets: dict[str, NeuronSet]) -> pandas.DataFrame:
    """Returns a table with the columns language, site, layer and neurons."""
    import pandas

    rows = [
        (language, site, layer, count)
        for language, neurons in sets.items()
        for site, counts in neurons.count("layer").items()
        for layer, count in enumerate(counts)
    ]
    return pandas.DataFrame(rows, columns=["language", "site", "layer", "neurons"])


def _widths(neurons: NeuronSet) -> dict[tuple[str, int], int]:
    """Returns {(site, layer): number of its neurons}, or 1 for a layer that has none."""
    return {
        (site, layer): max(width, 1) for site in neurons.sites for layer, width in enumerate(neurons.layer_widths(site))
    }


def _source(results: Results) -> str:
    if results.has("histogram.csv"):
        return TERNARY
    return LAPE if results.command == "classify" else PLND


def _figure(kind: str, table: pandas.DataFrame, widths: dict[tuple[str, int], int], source: str) -> Figure:
    title, meaning = KINDS[kind]
    own_widths = [widths[site, layer] for site, layer in zip(table["site"], table["layer"])]
    table = table.assign(share=table["neurons"] / own_widths)
    rows = rows_of(table[[column.name for column in COLUMNS]])
    top = highest(rows, 3)
    alternative = f"Heat maps, one for each site: {title.lower()}, by language and layer."
    if top is not None and top[4]:
        alternative += f" The largest share: {top[0]}, layer {top[1]}, {top[2]}, {top[4]} neurons."
    return Figure(
        name=kind,
        title=title,
        reading=f"The colour is the share of a layer's neurons at this site that are {meaning}; the number, where a "
        "cell has room for it, is how many they are.",
        source=source,
        alternative=alternative,
        columns=COLUMNS,
        rows=rows,
        chart=heat_map(COLUMNS, "layer", "language", "share", write="neurons"),
        value="share",
        panel="site",
    )


def changes(before: Results, after: Results) -> list[Figure]:
    """Makes bars of the neurons that each language's set gained and lost; nothing for sets of different methods."""
    if _source(before) != _source(after):
        return []
    before_sets, after_sets = before.sets("neurons"), after.sets("neurons")
    rows: list[list[Cell]] = []
    for language in dict.fromkeys([*before_sets, *after_sets]):
        either = before_sets[language] if language in before_sets else after_sets[language]
        old, new = (sets.get(language, either - either) for sets in (before_sets, after_sets))
        try:
            gained, lost, kept = new - old, old - new, new & old
        except ValueError:
            return []  # sets of models of different shapes have no neurons in common
        for change, neurons in (("kept", kept), ("gained", gained), ("lost", lost)):
            for site, counts in neurons.count("layer").items():
                rows += [[language, layer, site, change, count] for layer, count in enumerate(counts) if count]
    columns = (LANGUAGE, LAYER, SITE, Column("change", "neurons of the language"), Column("neurons", "neurons", WHOLE))
    kinds = ["kept", "gained", "lost"]
    chart = {
        "height": {"step": ROW_HEIGHT},
        "transform": [{"calculate": f"indexof({kinds}, datum.change)", "as": "place"}],
        "mark": {"type": "bar", "tooltip": True},
        "encoding": {
            "y": {"field": "language", "type": "nominal", "sort": None, "title": "language"},
            "x": {"aggregate": "sum", "field": "neurons", "title": "neurons", "axis": {"tickMinStep": 1}},
            "color": {
                "field": "change",
                "type": "nominal",
                "scale": {"domain": kinds},
                "title": None,
                "legend": {"orient": "top"},
            },
            "order": {"field": "place", "type": "quantitative"},
            "tooltip": [
                {"field": "language"},
                {"field": "change", "title": "neurons"},
                {"aggregate": "sum", "field": "neurons", "title": "number", "format": ","},
            ],
        },
    }
    totals = {change: sum(row[4] for row in rows if row[3] == change and isinstance(row[4], int)) for change in kinds}
    return [
        Figure(
            name="changes",
            title=f"Neurons gained and lost: {after.name} against {before.name}",
            reading=f"A neuron is gained if it is in the language's set of {after.name} and not in that of "
            f"{before.name}, and lost if it is the other way round.",
            source="set differences; the sets: " + _source(after),
            alternative="Bars, one for each language, of the neurons that are kept, gained and lost. Over all "
            f"languages: {totals['kept']} kept, {totals['gained']} gained, {totals['lost']} lost.",
            columns=columns,
            rows=rows,
            chart=chart,
            value="neurons",
        )
    ]


SECTION = Section(
    order=10,
    title="Neurons of languages",
    about="Which layers and sites have the neurons of each language.",
    commands=("demo", "detect", "select", "classify"),
    figures=figures,
    changes=changes,
)
