"""Neurons that languages share."""

from __future__ import annotations

from pymultiling.methods.overlap import overlap
from pymultiling.results.report.figures import DECIMALS, WHOLE, Column, Figure, heat_map, highest, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

COLUMNS = (
    Column("language", "language", control="language"),
    Column("other", "other language", control="language"),
    Column("jaccard", "Jaccard index", DECIMALS),
    Column("shared", "shared neurons", WHOLE),
    # The diagonal is 1 and would hide the differences between languages: it gets the colour of the largest of them.
    Column("colour", "Jaccard index of two languages", DECIMALS, is_shown=False),
)


def figures(results: Results) -> list[Figure]:
    """Makes a heat map of the Jaccard indices."""
    if results.has("overlap.csv"):
        counts, jaccard = (
            results.table(file, ("language",)).set_index("language") for file in ("overlap.csv", "jaccard.csv")
        )
    else:
        counts, jaccard = overlap(results.sets("neurons"))
    names = [str(name) for name in counts.index]
    if len(names) < 2:
        return []
    table = jaccard.rename_axis("language").reset_index().melt("language", var_name="other", value_name="jaccard")
    table["shared"] = counts.to_numpy().T.ravel()
    is_pair = table["language"] != table["other"]
    table["colour"] = table["jaccard"].where(is_pair, table["jaccard"][is_pair].max()).fillna(0)
    rows = rows_of(table)
    top = highest((row for row in rows if row[0] != row[1]), 2)
    alternative = "Heat map of the neurons that every two languages share."
    if top is not None:
        alternative += f" The most similar sets: {top[0]} and {top[1]}, Jaccard index {top[2]:.2f}, {top[3]} neurons."
    return [
        Figure(
            name="overlap",
            title="Neurons that languages share",
            reading="The colour is the Jaccard index, the neurons in the sets of both languages as a fraction of those "
            "in either set; the number, where a cell has room for it, is how many they share (on the diagonal: have).",
            source="arXiv 2402.18815, appendix C, for the numbers",
            alternative=alternative,
            columns=COLUMNS,
            rows=rows,
            chart=heat_map(COLUMNS, "other", "language", "colour", write="shared"),
            value="colour",
        )
    ]


SECTION = Section(
    order=20,
    title="Overlap between languages",
    about="How many neurons the sets of two languages have in common.",
    commands=("demo", "detect", "select", "classify"),
    figures=figures,
)
