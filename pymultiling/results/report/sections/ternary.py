"""Language-specific, language-related and general neurons, and how they change."""

from __future__ import annotations

from pymultiling.results.report.figures import WHOLE, Column, Figure, bars, curves, highest, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

SOURCE = "arXiv 2505.21505, eq. 5 and 6"
NEURONS, KIND = Column("neurons", "selected neurons", WHOLE), Column("kind", "kind")
BY_LAYER = (Column("layer", "layer", control="layer"), KIND, NEURONS)
HISTOGRAM = (Column("languages", "languages that have the neuron"), NEURONS)
CHANGE_BY_LAYER = (
    Column("layer", "layer", control="layer"),
    KIND,
    Column("change", "change of the selected neurons", "+d"),
    Column("before", "before", WHOLE),
    Column("after", "after", WHOLE),
)
CHANGE_HISTOGRAM = (HISTOGRAM[0], Column("time", "model"), NEURONS)


def figures(results: Results) -> list[Figure]:
    """Makes curves over the layers and a histogram of the numbers of languages; nothing for results of LAPE."""
    if not results.has("histogram.csv"):
        return []
    rows = rows_of(results.table("by_layer.csv").melt("layer", var_name="kind", value_name="neurons"))
    top = highest(rows, 2)
    alternative = "Curves of the specific, related and general neurons by layer."
    if top is not None:
        alternative += f" The most: {top[2]} {top[1]} neurons in layer {top[0]}."
    histogram = rows_of(results.table("histogram.csv"))
    found = [
        Figure(
            name="by layer",
            title="Specific, related and general neurons by layer",
            reading="A neuron of one language is specific, one of several languages is related, and one of all "
            "languages is general.",
            source=SOURCE,
            alternative=alternative,
            columns=BY_LAYER,
            rows=rows,
            chart=curves(BY_LAYER, "layer", "neurons", "kind"),
            value="neurons",
        ),
        Figure(
            name="histogram",
            title="How many languages have a neuron",
            reading="A bar is the number of selected neurons that belong to this many languages; those of no language "
            "are below the threshold in all of them.",
            source=SOURCE,
            alternative="Bars: " + ", ".join(f"{count} neurons of {n} languages" for n, count in histogram) + ".",
            columns=HISTOGRAM,
            rows=histogram,
            chart=bars(HISTOGRAM, "languages", "neurons"),
            value="neurons",
        ),
    ]
    if results.has("change_layers.csv"):
        found += _changes(results)
    return found


def _changes(results: Results) -> list[Figure]:
    layers = results.table("change_layers.csv", ("kind",))[[column.name for column in CHANGE_BY_LAYER]]
    totals = ", ".join(
        f"{kind} {change:+d}" for kind, change in layers.groupby("kind", sort=False)["change"].sum().items()
    )
    histogram = results.table("change_histogram.csv")[["languages", "before", "after"]]
    return [
        Figure(
            name="change by layer",
            title="Change by layer",
            reading="A curve is the number of neurons of a kind after minus before; before is --before, after is "
            "--counts.",
            source="arXiv 2505.21505, its comparison of a model before and after alignment",
            alternative=f"Curves of the change of each kind by layer. In all layers: {totals}.",
            columns=CHANGE_BY_LAYER,
            rows=rows_of(layers),
            chart=curves(CHANGE_BY_LAYER, "layer", "change", "kind"),
            value="change",
        ),
        Figure(
            name="change of the histogram",
            title="How many languages have a neuron, before and after",
            reading="Two bars are the numbers of selected neurons that belong to this many languages before and after.",
            source="arXiv 2505.21505, its comparison of a model before and after alignment",
            alternative="Pairs of bars, before and after, for each number of languages.",
            columns=CHANGE_HISTOGRAM,
            rows=rows_of(histogram.melt("languages", var_name="time", value_name="neurons")),
            chart=bars(CHANGE_HISTOGRAM, "languages", "neurons", "time"),
            value="neurons",
        ),
    ]


SECTION = Section(
    order=50,
    title="Ternary neurons",
    about="FFN neurons that serve one language, several, or all.",
    commands=("classify",),
    figures=figures,
)
