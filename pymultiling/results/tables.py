"""Tables as text: neurons by language, site and layer, effects of deactivated neurons, and Markdown.

Imports no heavy packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pymultiling.methods.random_sets import draws_by_set

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.activation_statistics import ActivationStatistics


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Formats a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def counts_by_site(report: pandas.DataFrame) -> str:
    """Formats `Detection.report()`: a row for each language, columns for selected and specific neurons by site."""
    import pandas

    tables = {}
    for column in ("selected", "specific"):
        table = _pivot(report, ["language"], "site", column)
        tables[column] = table.assign(total=table.sum(axis=1))
    return pandas.concat(tables, axis=1).to_string()


def counts_by_layer(report: pandas.DataFrame, which: str = "specific") -> str:
    """Formats `Detection.report()`: a row for each site and layer, a column for each language.

    which: the column of the report to show, "selected" or "specific".
    """
    return _pivot(report, ["site", "layer"], "language", which).to_string()


def _pivot(report: pandas.DataFrame, index: list[str], columns: str, values: str) -> pandas.DataFrame:
    """Sums `values` for each combination of `index` and `columns`, in the report's order of languages and sites."""
    table = report.pivot_table(index=index, columns=columns, values=values, aggfunc="sum", sort=False)
    table.index.names = [None] * len(index)
    table.columns.name = None
    return table


TOP_SHARE = "of the top 1%: how much of this the most active 1% of the neurons make up"  # what this column says


def activation_table(statistics: Mapping[str, ActivationStatistics]) -> str:
    """Formats `pymultiling.activations`: positions, fraction of active neurons, and share of the most active 1%."""
    import pandas

    rows = [
        (name, f"{counts.tokens:,}", f"{counts.proportion.mean():.2%}", f"{counts.most_active().share:.2%}")
        for name, counts in statistics.items()
    ]
    return pandas.DataFrame(rows, columns=["", "positions", "active", "of the top 1%"]).to_string(index=False)


# What `positions` of `pymultiling.pmi.compare` says about where active neurons are counted.
POSITION_LABELS = {"last": "the prompts' last token", "all": "the prompts' tokens", "response": "the answers' tokens"}


def pmi_table(table: pandas.DataFrame) -> str:
    """Formats the table of `pymultiling.pmi.compare`.

    Tokens and metric values have one decimal, fractions are in percent.
    """
    texts = table.copy()
    for column in table.columns[2:]:  # after the prompt's name and its number of languages
        is_fraction = column in ("proportion", "top_share")
        texts[column] = table[column].map("{:.2%}".format if is_fraction else "{:.1f}".format)
    return texts.rename(columns={"proportion": "active", "top_share": "of the top 1%"}).to_string(index=False)


def log_change(perplexities: pandas.DataFrame) -> pandas.DataFrame:
    """Returns the change of log-perplexity against row "none", in nats a token.

    perplexities: the table of `ablation_matrix`.
    """
    import numpy
    import pandas

    logs = pandas.DataFrame(numpy.log(perplexities))
    return (logs - logs.loc["none"]).drop(index="none")


def mean_of_draws(change: pandas.DataFrame) -> pandas.DataFrame:
    """Returns the table of `log_change` with one row for all random sets of a set, their mean, "random as NAME"."""
    draws = draws_by_set(change.index)
    table = change.drop(index=[row for rows in draws.values() for row in rows])
    for name, rows in draws.items():
        table.loc[f"random as {name}"] = change.loc[rows].mean()
    return table


def compare_own_effects(change: pandas.DataFrame) -> pandas.DataFrame:
    """Compares the effect that each set has on the language of its name with two other effects.

    The two are the effect of the same neurons on the other languages, and that of random neurons on the language.

    Args:
        change: the table of `log_change`. A row with the name of a column is the language's own set.

    Returns:
        A row for each set, and row "mean" over the sets of languages. Columns: own; others, the mean over the other
        languages; if there are random sets, random, the mean over the draws, and random_least and random_most, the
        smallest and the largest of them; and the ratios own/others and own/random, NaN if the divisor is not above
        zero. A set without texts of its name has `others` only.
    """
    import pandas

    draws = draws_by_set(change.index)
    random_rows = {row for rows in draws.values() for row in rows}
    sets = [name for name in change.index if name not in random_rows]
    languages = [name for name in sets if name in change.columns]
    table = pandas.DataFrame(index=sets, columns=["own", "others"], dtype=float)
    table["own"] = pandas.Series({name: change.loc[name, name] for name in languages}, dtype=float)
    table["others"] = [change.loc[name].drop(name, errors="ignore").mean() for name in sets]
    if languages and all(name in draws for name in languages):
        drawn = {name: change.loc[draws[name], name] for name in languages}
        for column, statistic in (("random", "mean"), ("random_least", "min"), ("random_most", "max")):
            table[column] = pandas.Series({name: getattr(values, statistic)() for name, values in drawn.items()})
    table.loc["mean"] = table.loc[languages].mean()
    if "random" in table:
        table.loc["mean", ["random_least", "random_most"]] = float("nan")
    for column in ("others", "random"):
        if column in table:
            table[f"own/{column}"] = table["own"] / table[column].where(table[column] > 0)
    return table


def perplexity_table(perplexities: pandas.DataFrame) -> str:
    """Formats the table of `ablation_matrix`, with the geometric mean of the perplexities of a set's random sets."""
    import numpy
    import pandas

    table = pandas.DataFrame(numpy.exp(mean_of_draws(pandas.DataFrame(numpy.log(perplexities)))))
    return table.to_string(float_format=lambda value: f"{value:,.2f}" if value < 1000 else f"{value:,.0f}")


def change_table(change: pandas.DataFrame) -> str:
    """Formats the table of `log_change`, with the mean over a set's random sets."""
    return (mean_of_draws(change).round(3) + 0.0).to_string(float_format="{:+.3f}".format)  # + 0.0 turns -0.0 into 0.0


HOW_TO_READ = (
    "A set is specific to its language if the rise of log-perplexity in this language (own) is several times that in "
    "the other languages (others) and that with as many random neurons off (random)."
)


def own_effects_table(table: pandas.DataFrame) -> str:
    """Formats the table of `compare_own_effects`: changes with their sign, ratios as multiples.

    Ratios above 100 are mostly noise and are shown as "> 100x". The smallest and the largest change of the random sets
    are one column.
    """
    rounded = table.round(3) + 0.0  # + 0.0 turns -0.0 into 0.0
    formats = {column: _multiple if "/" in column else "{:+.3f}".format for column in map(str, table)}
    texts: pandas.DataFrame = rounded.apply(
        lambda column: column.map(lambda value: "-" if value != value else formats[column.name](value))
    )
    if "random_least" in texts:
        both = texts.pop("random_least") + " to " + texts.pop("random_most")
        texts.insert(list(texts.columns).index("random") + 1, "least to most", both.replace("- to -", "-"))
    return texts.to_string()


def _multiple(ratio: float) -> str:
    """Formats a ratio, such as 2.04 as "2.0x"."""
    return "> 100x" if ratio > 100 else f"{ratio:.1f}x"


PARTS = {"understanding": "Under", "attention": "S-ATTN", "ffn": "S-FFN", "generation": "Gen"}


def mwork_table(table: pandas.DataFrame) -> str:
    """Formats the table of `pymultiling.mwork` as arXiv 2402.18815 does: a cross for each part with neurons off."""
    texts = table.copy()
    for part in PARTS:
        texts[part] = ["✓" if is_active else "✗" for is_active in table[part]]
    for column in ("english", "others"):
        texts[column] = table[column].map("{:.3f}".format)
    for column in ("d_english", "d_others", "delta"):
        texts[column] = table[column].map(lambda value: f"{round(value, 3) + 0.0:+.3f}")
    # The deviation is NaN (unequal to itself) for settings that are measured once.
    deviation = table["delta_std"].map(lambda value: "" if value != value else f" ± {value:.3f}")
    texts["delta"] += deviation
    if "delta_low" in texts:  # of `reproduce`
        ends = zip(table["delta_low"], table["delta_high"])
        texts["95%"] = ["" if low != low else f"{low:+.3f} to {high:+.3f}" for low, high in ends]
        texts = texts.drop(columns=["delta_low", "delta_high"])
    texts["count"] = table["count"].map("{:,.0f}".format)
    names = {"english": "Eng", "others": "n-Eng", "d_english": "ΔEng", "d_others": "Δn-Eng", "delta": "Δ"}
    return texts.drop(columns="delta_std").rename(columns={**PARTS, **names}).to_string(index=False)


def setting_name(row: pandas.Series) -> str:
    """Describes a row of `pymultiling.mwork`: the parts with deactivated neurons, and which neurons these are.

    Examples: "ffn: own", "understanding, ffn: own", "all but ffn: own", "everywhere: own", "nowhere: none".
    """
    off = [part for part in PARTS if not row[part]]
    if len(off) == len(PARTS):
        where = "everywhere"
    elif len(off) == len(PARTS) - 1:
        where = f"all but {next(part for part in PARTS if row[part])}"
    else:
        where = ", ".join(off) or "nowhere"
    return f"{where}: {row['neurons']}"
