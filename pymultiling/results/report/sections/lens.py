"""The languages that the layers decode to."""

from __future__ import annotations

from pymultiling.results.report.figures import COLOURS, PERCENT, Column, Figure, bars, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

REST, NO_LANGUAGE = "the rest", "other"
COLUMNS = (
    Column("texts", "texts", control="language"),
    Column("layer", "layer (0: embeddings)", control="layer"),
    Column("language", "decoded language"),
    Column("share", "share of the decoded tokens", PERCENT),
)


def figures(results: Results) -> list[Figure]:
    """Makes stacked bars over the layers for each text.

    Each language has a colour of its own. Where there are too few, those with the smallest shares are "the rest".
    """
    table = results.table("lens.csv", ("texts", "language"))
    shares = table[table["language"] != NO_LANGUAGE].groupby("language", sort=False)["share"].max()
    room = COLOURS - 1  # one is for NO_LANGUAGE
    shown = {*shares.nlargest(room if len(shares) <= room else room - 1).index, NO_LANGUAGE}
    table["language"] = table["language"].where(table["language"].isin(shown), REST)
    table = table.groupby(["texts", "layer", "language"], sort=False)["share"].sum().reset_index()
    last = table[(table["layer"] == table["layer"].max()) & (table["language"] != NO_LANGUAGE)]
    ends = [
        f"{name} ends with {rows.loc[rows['share'].idxmax(), 'language']} ({rows['share'].max():.0%})"
        for name, rows in last.groupby("texts", sort=False)
    ]
    return [
        Figure(
            name="lens",
            title="The languages that the layers decode to",
            reading="A bar is a layer: what share of the ten likeliest tokens at each position is in each language, if "
            f'the layer were the last one; "{NO_LANGUAGE}" are tokens of no language, such as numbers.',
            source="arXiv 2402.18815, figure 1",
            alternative=f"Stacked bars by layer, for the texts of each language: {'; '.join(ends)}.",
            columns=COLUMNS,
            rows=rows_of(table[[column.name for column in COLUMNS]]),
            chart=bars(COLUMNS, "layer", "share", "language", is_percent=True, is_stacked=True),
            value="share",
            panel="texts",
        )
    ]


SECTION = Section(
    order=60,
    title="Lens",
    about="In which languages each layer would answer.",
    commands=("lens",),
    figures=figures,
)
