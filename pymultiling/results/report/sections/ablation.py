"""What switching sets of neurons off does to the perplexity of every language."""

from __future__ import annotations

import pandas

from pymultiling.methods.random_sets import draws_by_set
from pymultiling.results.report.figures import SIGNED, Cell, Column, Figure, heat_map, highest, lying_bars, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section
from pymultiling.results.tables import HOW_TO_READ, mean_of_draws

SOURCE = "arXiv 2402.18815, section 2 and its experiment of deactivation; the change is ln(perplexity with the neurons "
SOURCE += "off) - ln(perplexity with none off)"
MATRIX = (
    Column("off", "neurons switched off"),
    Column("language", "language of the text", control="language"),
    Column("change", "change of log-perplexity (nats a token)", SIGNED),
    Column("perplexity", "perplexity", ",.2f"),
    Column("least", "least of the draws", SIGNED),
    Column("most", "most of the draws", SIGNED),
    Column("owner", "owner", control="language", is_shown=False),
)
OWN = (
    Column("language", "language", control="language"),
    Column("effect", "effect"),
    Column("change", "change of log-perplexity (nats a token)", SIGNED),
)
EFFECTS = {
    "own": "own neurons off, own language",
    "others": "own neurons off, other languages (mean)",
    "random": "random neurons off, own language (mean)",
}


def figures(results: Results) -> list[Figure]:
    """Makes the matrix of all sets and languages, and bars that compare each set's effect with random neurons."""
    change = results.table("log_change.csv", ("off",)).set_index("off")
    perplexity = results.table("perplexity.csv", ("off",)).set_index("off")
    found = [_matrix(change, perplexity)]
    if results.has("ablation.csv"):
        found += _own_effects(results.table("ablation.csv", ("language",)))
    return found


def _matrix(change: pandas.DataFrame, perplexity: pandas.DataFrame) -> Figure:
    draws = {f"random as {name}": names for name, names in draws_by_set(change.index).items()}
    means = mean_of_draws(change)
    table = _long(means, "change").merge(_long(perplexity, "perplexity"), "left", on=["off", "language"])
    for column, statistic in (("least", "min"), ("most", "max")):
        spread = {name: getattr(change.loc[names], statistic)() for name, names in draws.items()}
        values = pandas.DataFrame(spread, index=change.columns, dtype=float).T.rename_axis("off")
        table = table.merge(_long(values, column), "left", on=["off", "language"])
    owner = table["off"].str.removeprefix("random as ")
    table["owner"] = owner.where(owner.isin(change.columns), None)  # a set of no single language is always shown
    rows = rows_of(table[[column.name for column in MATRIX]])
    top = highest(rows, 2)
    alternative = "Heat map: a row for each set that is switched off, a column for each language of the text."
    if top is not None:
        alternative += f" The largest change: {top[0]} off, text in {top[1]}, {top[2]:+.2f} nats a token."
    return Figure(
        name="matrix",
        title="What switching neurons off does to each language",
        reading="A cell is the change of log-perplexity of a language's text without the neurons of the row; a set is "
        "specific to its language if the diagonal stands out from its row and from the row of as many random neurons.",
        source=SOURCE,
        alternative=alternative,
        columns=MATRIX,
        rows=rows,
        chart=heat_map(MATRIX, "language", "off", "change", is_signed=True),
        value="change",
    )


def _long(table: pandas.DataFrame, value: str) -> pandas.DataFrame:
    """Returns a row for each cell of a table whose index is "off" and whose columns are languages."""
    long = table.rename_axis("off").reset_index().melt("off", var_name="language", value_name=value)
    return long.astype({"off": str, "language": str})


def _own_effects(table: pandas.DataFrame) -> list[Figure]:
    table = table[(table["language"] != "mean") & table["own"].notna()]
    rows: list[list[Cell]] = [
        [str(row["language"]), label, row[column]]
        for _, row in table.iterrows()
        for column, label in EFFECTS.items()
        if column in table
    ]
    rows = rows_of(pandas.DataFrame(rows, columns=[column.name for column in OWN]).dropna())
    if not rows:
        return []
    return [
        Figure(
            name="own",
            title="Each set's effect on its own language",
            reading=HOW_TO_READ,
            source=SOURCE,
            alternative="Bars for each language: the change of log-perplexity with its own neurons off in the language "
            "itself and in the others, and with random neurons off.",
            columns=OWN,
            rows=rows,
            chart=lying_bars(OWN, "language", "change", "effect"),
            value="change",
        )
    ]


SECTION = Section(
    order=30,
    title="Ablation",
    about="What each language loses without the neurons of a set.",
    commands=("demo", "ablate"),
    figures=figures,
)
