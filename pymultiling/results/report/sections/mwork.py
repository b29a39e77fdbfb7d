"""What each part of the model is for."""

from __future__ import annotations

from pymultiling.results.report.figures import SIGNED, WHOLE, Column, Figure, curves, lying_bars, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section
from pymultiling.results.tables import setting_name

SOURCE = "arXiv 2402.18815, sections 3.2 to 3.6, tables 2 to 5"
COLUMNS = (
    Column("task", "task"),
    Column("setting", "neurons switched off"),
    Column("texts", "texts"),
    Column("change", "change of the score", SIGNED),
    Column("score", "score", ".3f"),
    Column("count", "neurons off", WHOLE),
)
SEARCH = (
    Column("layers", "layers of the part"),
    Column("part", "part"),
    Column("delta", "change in English minus change in the language", SIGNED),
)
ENGLISH, OTHERS = "English", "the others, mean"


def figures(results: Results) -> list[Figure]:
    """Makes bars of the changes for each task, and curves of the search for the parts."""
    table = results.table("mwork.csv", ("task", "metric", "neurons"))
    table["task"] = table["task"] + ", " + table["metric"]
    table["setting"] = [setting_name(row) for _, row in table.iterrows()]
    table = table[table["neurons"] != "none"]
    both = [
        table.assign(texts=texts, change=table[change], score=table[score])
        for texts, change, score in ((ENGLISH, "d_english", "english"), (OTHERS, "d_others", "others"))
    ]
    rows = [row for pair in zip(*(rows_of(part[[column.name for column in COLUMNS]]) for part in both)) for row in pair]
    best = table.sort_values("delta").iloc[-1]
    found = [
        Figure(
            name="parts",
            title="Neurons switched off by part",
            reading="A part serves languages other than English if their score falls without its neurons while that of "
            "English does not, and as many random neurons do less.",
            source=SOURCE,
            alternative="Pairs of bars for each part: the change of the score in English and in the other languages. "
            f"The largest difference: {best['setting']}, {best['delta']:+.3f}.",
            columns=COLUMNS,
            rows=rows,
            chart=lying_bars(COLUMNS, "setting", "change", "texts"),
            value="change",
            panel="task",
        )
    ]
    if results.has("search.csv"):
        search = results.table("search.csv", ("part",))
        found.append(
            Figure(
                name="search",
                title="Search for the understanding and the generation layers",
                reading="The part with the highest value is taken: English stays the same and the language gets worse.",
                source=SOURCE,
                alternative="Curves over the number of layers, one for each part.",
                columns=SEARCH,
                rows=rows_of(search[[column.name for column in SEARCH]]),
                chart=curves(SEARCH, "layers", "delta", "part"),
                value="delta",
            )
        )
    return found


SECTION = Section(
    order=90,
    title="Parts of the model (MWork)",
    about="Which part understands the input, solves the task, and writes the answer.",
    commands=("mwork",),
    figures=figures,
)
