"""Figures of a paper's tables, with intervals, and of their sample sizes."""

from __future__ import annotations

import pandas

from pymultiling.results.report.figures import (
    DECIMALS,
    PERCENT,
    SIGNED,
    WHOLE,
    Column,
    Figure,
    curves,
    interval_points,
    lying_bars,
    rows_of,
)
from pymultiling.results.tables import setting_name

INTERVALS = "intervals: percentiles of 1,000 resamples"
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
PROMPT = Column("prompt", "prompt")
ACTIVITY = (Column("measure", "share"), PROMPT, Column("value", "share of neurons", PERCENT), *ends(PERCENT))
ANSWERS = (Column("measure", "metric"), PROMPT, Column("value", "value", DECIMALS), *ends(DECIMALS))
INHIBITION = (
    Column("layer", "layer", control="layer"),
    PROMPT,
    Column("inhibited", "inhibited, of direct's active neurons", PERCENT),
    Column("new", "not active with direct, of its own", PERCENT),
)
SAMPLES = (
    Column("measured", "what was measured"),
    Column("language", "language", control="language"),
    Column("items", "items", WHOLE),
    Column("of", "of all that there are", WHOLE),
)
NEURONS = {"none": "none", "random": "as many random ones", "own": "all of the language"}


def effects(table: pandas.DataFrame, source: str) -> Figure:
    """Makes points for the changes of log-perplexity."""
    return Figure(
        name="effects with intervals",
        title="Effects on perplexity and how certain they are",
        reading=f"A point is a change of log-perplexity, {RESAMPLED}; a set is specific to its language if its own "
        "interval lies above the other two.",
        source=f"{source}, on held-out text; {INTERVALS}",
        alternative="Points with intervals for each language: its own neurons off, in the language and in the others, "
        "and random neurons off.",
        columns=EFFECTS,
        rows=rows_of(table[[column.name for column in EFFECTS]]),
        chart=interval_points(EFFECTS, "language", "value", "row"),
        value="value",
    )


def table1(table: pandas.DataFrame) -> Figure:
    """Makes points for the scores of tasks with all neurons of a language off."""
    table = table.assign(task=table["task"] + ", " + table["metric"], neurons=table["neurons"].map(NEURONS))
    return Figure(
        name="table 1",
        title="Tasks with all neurons of a language off (table 1)",
        reading=f"A point is the score of a task in a language, {RESAMPLED}; its neurons matter if the score falls "
        "without them and not without random ones.",
        source=f"arXiv 2402.18815, table 1; {INTERVALS}",
        alternative="Points with intervals for each language: no neurons off, random ones off, its own off.",
        columns=TABLE1,
        rows=rows_of(table[[column.name for column in TABLE1]]),
        chart=interval_points(TABLE1, "language", "score", "neurons", has_zero=False),
        value="score",
        panel="task",
    )


def deltas(table: pandas.DataFrame) -> Figure:
    """Makes points for the differences between English and the others, by part."""
    table = table[table["neurons"] != "none"].rename(columns={"delta_low": "low", "delta_high": "high"})
    setting = [setting_name(row) for _, row in table.iterrows()]
    table = table.assign(setting=setting, task=table["task"] + ", " + table["metric"])
    return Figure(
        name="delta with intervals",
        title="Change in English minus change in the others, by part",
        reading=f"A point is the change of the score in English minus that in the other languages, {RESAMPLED}; a part "
        "serves the other languages if its own neurons lie above zero and above random ones.",
        source=f"arXiv 2402.18815, tables 2 to 5; {INTERVALS}",
        alternative="A point with an interval for each choice of parts and neurons.",
        columns=DELTAS,
        rows=rows_of(table[[column.name for column in DELTAS]]),
        chart=interval_points(DELTAS, "setting", "delta"),
        value="delta",
        panel="task",
    )


def means(table: pandas.DataFrame) -> Figure:
    """Makes points for the mean ILO by layer."""
    return Figure(
        name="ilo with intervals",
        title="Mean ILO by layer and how certain it is",
        reading=f"A point is the mean ILO over the languages in a layer, {RESAMPLED}.",
        source=f"arXiv 2503.11280, ILO; {INTERVALS}, neighbours as they are",
        alternative="A point with an interval for each layer.",
        columns=MEANS,
        rows=rows_of(table[[column.name for column in MEANS]]),
        chart=interval_points(MEANS, "layer", "ilo"),
        value="ilo",
    )


def kinds(table: pandas.DataFrame) -> Figure:
    """Makes points for the scores of tasks with the neurons of a kind off."""
    table = table.assign(task=table["task"] + ", " + table["metric"])
    return Figure(
        name="tasks by kind",
        title="Tasks with all neurons of a kind off",
        reading=f"A point is the score of a task in a language, {RESAMPLED}; a kind matters if the score falls without "
        "it and not without as many random neurons.",
        source=f"arXiv 2505.21505, its tasks; {INTERVALS}",
        alternative="Points with intervals for each language: no neurons off, each kind off, as many random ones off.",
        columns=TABLE1,
        rows=rows_of(table[[column.name for column in TABLE1]]),
        chart=interval_points(TABLE1, "language", "score", "neurons", has_zero=False),
        value="score",
        panel="task",
    )


def activity(table: pandas.DataFrame) -> Figure:
    """Makes points for the active neurons of each kind of prompt, and for those that direct input does not share."""
    return Figure(
        name="active with intervals",
        title="Active neurons by prompt and how certain they are",
        reading=f"A point is a share of neurons at the prompts' last token, {RESAMPLED}; input inhibits neurons "
        "if the share gained against direct lies below zero.",
        source=f"arXiv 2403.09073, section 3; {INTERVALS}",
        alternative="Points with intervals for each kind of prompt: active neurons, how many more "
        "than with direct input, and how many both have.",
        columns=ACTIVITY,
        rows=rows_of(table[[column.name for column in ACTIVITY]]),
        chart=interval_points(ACTIVITY, "prompt", "value", has_zero=False, is_percent=True),
        value="value",
        panel="measure",
    )


def answers(table: pandas.DataFrame) -> Figure:
    """Makes points for the score of each kind of prompt."""
    return Figure(
        name="answers with intervals",
        title="Answers by prompt and how certain they are",
        reading=f"A point is the value of the metric for the answers to prompts of this kind, {RESAMPLED}; higher is "
        "better.",
        source=f"arXiv 2403.09073, section 3; {INTERVALS}",
        alternative="Points with intervals for each kind of prompt: direct, pivot, and one to several added languages.",
        columns=ANSWERS,
        rows=rows_of(table[[column.name for column in ANSWERS]]),
        chart=interval_points(ANSWERS, "prompt", "value", has_zero=False),
        value="value",
        panel="measure",
    )


def inhibition(table: pandas.DataFrame) -> Figure:
    """Makes curves over the layers of the neurons that a kind of prompt inhibits."""
    return Figure(
        name="inhibited by layer",
        title="Inhibited neurons by layer",
        reading="A curve is the share of a layer's neurons that are active with direct input and not with this kind of "
        "prompt, of those that are active with direct input.",
        source="arXiv 2403.09073, section 3; the share is this package's own",
        alternative="Curves over the layers, one for each kind of prompt but direct.",
        columns=INHIBITION,
        rows=rows_of(table[[column.name for column in INHIBITION]]),
        chart=curves(INHIBITION, "layer", "inhibited", "prompt", is_percent=True),
        value="inhibited",
    )


def samples(table: pandas.DataFrame) -> Figure:
    """Makes bars for the sample sizes."""
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
