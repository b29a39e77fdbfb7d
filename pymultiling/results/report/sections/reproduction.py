"""The tables of a paper that `reproduce` makes: the figures of their kinds, and how certain the values are."""

from __future__ import annotations

import pandas

from pymultiling.results.report.figures import (
    DECIMALS,
    SIGNED,
    WHOLE,
    Column,
    Figure,
    interval_points,
    lying_bars,
    rows_of,
)
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section, ablation, ilo, mwork, overlap, sets
from pymultiling.results.tables import setting_name

RESAMPLED = "the line is the 95% bootstrap interval over the items (a single item has none)"


def ends(form: str, items: str = "items") -> tuple[Column, ...]:
    """Returns the columns of an interval's ends, in the format of its value, and of the number of its items."""
    return Column("low", "lower end", form), Column("high", "upper end", form), Column("items", items, WHOLE)


EFFECTS = (
    Column("language", "language", control="language"),
    Column("row", "neurons switched off"),
    Column("value", "change of log-perplexity (nats a token)", SIGNED),
    *ends(SIGNED),
)
TABLE1 = (
    Column("task", "task"),
    Column("language", "language", control="language"),
    Column("neurons", "neurons switched off"),
    Column("score", "score", DECIMALS),
    *ends(DECIMALS),
)
DELTAS = (
    Column("task", "task"),
    Column("setting", "neurons switched off"),
    Column("delta", "change in English minus change in the others", SIGNED),
    *ends(SIGNED),
)
MEANS = (
    Column("layer", "layer (0: embeddings)", control="layer"),
    Column("ilo", "mean ILO over the languages", DECIMALS),
    *ends(DECIMALS, "sentences"),
)
SAMPLES = (
    Column("measured", "what was measured"),
    Column("language", "language", control="language"),
    Column("items", "items", WHOLE),
    Column("of", "of all that there are", WHOLE),
)
# {part of the results, the file that shows it: the section whose figures it has}
KINDS = {"report.csv": (sets, overlap), "log_change.csv": (ablation,), "mwork.csv": (mwork,), "ilo.csv": (ilo,)}
NEURONS = {"none": "none", "random": "as many random ones", "own": "all of the language"}


def figures(results: Results) -> list[Figure]:
    """Makes the figures of the tables that there are."""
    found: list[Figure] = []
    for file, sections in KINDS.items():
        if results.has(file):
            for section in sections:
                found += section.figures(results)
    if results.has("intervals.csv"):
        found.append(_effects(results.table("intervals.csv", ("language", "row"))))
    if results.has("table1.csv"):
        found.append(_table1(results.table("table1.csv", ("task", "metric", "language", "neurons"))))
    if results.has("mwork.csv"):
        found.append(_deltas(results.table("mwork.csv", ("task", "metric", "neurons"))))
    if results.has("means.csv"):
        found.append(_means(results.table("means.csv")))
    found.append(_samples(results.table("samples.csv", ("measured", "language"))))
    return found


def _effects(table: pandas.DataFrame) -> Figure:
    return Figure(
        name="effects with intervals",
        title="Effects on perplexity and how certain they are",
        reading=f"A point is a change of log-perplexity, {RESAMPLED}; a set is specific to its language if its own "
        "interval lies above the other two.",
        source="arXiv 2402.18815, section 2, on held-out text; intervals: percentiles of 1,000 resamples",
        alternative="Points with intervals for each language: its own neurons off, in the language and in the others, "
        "and random neurons off.",
        columns=EFFECTS,
        rows=rows_of(table[[column.name for column in EFFECTS]]),
        chart=interval_points(EFFECTS, "language", "value", "row"),
        value="value",
    )


def _table1(table: pandas.DataFrame) -> Figure:
    table = table.assign(task=table["task"] + ", " + table["metric"], neurons=table["neurons"].map(NEURONS))
    return Figure(
        name="table 1",
        title="Tasks with all neurons of a language off (table 1)",
        reading=f"A point is the score of a task in a language, {RESAMPLED}; its neurons matter if the score falls "
        "without them and not without random ones.",
        source="arXiv 2402.18815, table 1; intervals: percentiles of 1,000 resamples",
        alternative="Points with intervals for each language: no neurons off, random ones off, its own off.",
        columns=TABLE1,
        rows=rows_of(table[[column.name for column in TABLE1]]),
        chart=interval_points(TABLE1, "language", "score", "neurons", has_zero=False),
        value="score",
        panel="task",
    )


def _deltas(table: pandas.DataFrame) -> Figure:
    table = table[table["neurons"] != "none"].rename(columns={"delta_low": "low", "delta_high": "high"})
    setting = [setting_name(row) for _, row in table.iterrows()]
    table = table.assign(setting=setting, task=table["task"] + ", " + table["metric"])
    return Figure(
        name="delta with intervals",
        title="Change in English minus change in the others, by part",
        reading=f"A point is the change of the score in English minus that in the other languages, {RESAMPLED}; a part "
        "serves the other languages if its own neurons lie above zero and above random ones.",
        source="arXiv 2402.18815, tables 2 to 5; intervals: percentiles of 1,000 resamples",
        alternative="A point with an interval for each choice of parts and neurons.",
        columns=DELTAS,
        rows=rows_of(table[[column.name for column in DELTAS]]),
        chart=interval_points(DELTAS, "setting", "delta"),
        value="delta",
        panel="task",
    )


def _means(table: pandas.DataFrame) -> Figure:
    return Figure(
        name="ilo with intervals",
        title="Mean ILO by layer and how certain it is",
        reading=f"A point is the mean ILO over the languages in a layer, {RESAMPLED}.",
        source="arXiv 2503.11280, ILO; intervals: percentiles of 1,000 resamples, neighbours as they are",
        alternative="A point with an interval for each layer.",
        columns=MEANS,
        rows=rows_of(table[[column.name for column in MEANS]]),
        chart=interval_points(MEANS, "layer", "ilo"),
        value="ilo",
    )


def _samples(table: pandas.DataFrame) -> Figure:
    return Figure(
        name="samples",
        title="Sample sizes",
        reading="Each value stands on so many documents, texts or items, of those that the data folder has and the "
        "command takes.",
        source="samples.csv; --minutes takes the same number in each language",
        alternative="Bars for each part of the measurement, one for each language.",
        columns=SAMPLES,
        rows=rows_of(table[[column.name for column in SAMPLES]]),
        chart=lying_bars(SAMPLES, "measured", "items", "language"),
        value="items",
    )


SECTION = Section(
    order=5,
    title="A paper's tables",
    about="The tables and figures of the paper on this model and these texts. What differs from the paper and what was "
    "not measured is listed above.",
    commands=("reproduce",),
    figures=figures,
)
