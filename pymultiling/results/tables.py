"""Tables written as text: of neurons by language, site and layer, of what switching them off does, and in Markdown.

Importing is light.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.sets import NeuronSet


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def add_random_sets(sets: Mapping[str, NeuronSet], seed: int) -> dict[str, NeuronSet]:
    """The sets, and for each as many random neurons, drawn with seeds from `seed` on."""
    drawn = {
        random_name(name): neurons.random_like(seed + number) for number, (name, neurons) in enumerate(sets.items())
    }
    return {**sets, **drawn}


def counts_by_site(report: pandas.DataFrame) -> str:
    """A table of `Detection.report()`: languages down; selected and specific neurons by site across."""
    import pandas

    tables = {}
    for which in ("selected", "specific"):
        table = _pivot(report, ["language"], "site", which)
        tables[which] = table.assign(total=table.sum(axis=1))
    return pandas.concat(tables, axis=1).to_string()


def counts_by_layer(report: pandas.DataFrame, which: str = "specific") -> str:
    """A table of `Detection.report()`: sites and layers down; languages across."""
    return _pivot(report, ["site", "layer"], "language", which).to_string()


def _pivot(report: pandas.DataFrame, down: list[str], across: str, which: str) -> pandas.DataFrame:
    """Sums, in the report's own order of languages and sites."""
    table = report.pivot_table(index=down, columns=across, values=which, aggfunc="sum", sort=False)
    return table.rename_axis(index=[None] * len(down), columns=None)


def activation_table(statistics: Mapping[str, ActivationStatistics]) -> str:
    """A table of `pymultiling.activations`: positions, active neurons, and the share of the 1% that are active most often."""
    import pandas

    rows = [
        (name, f"{one.tokens:,}", f"{one.proportion.mean():.2%}", f"{one.most_active().share:.2%}")
        for name, one in statistics.items()
    ]
    return pandas.DataFrame(rows, columns=["", "positions", "active", "of the top 1%"]).to_string(index=False)


# Where `pymultiling.pmi.compare` counts active neurons.
POSITION_LABELS = {"last": "the prompts' last token", "all": "the prompts' tokens", "response": "the answers' tokens"}


def pmi_table(table: pandas.DataFrame) -> str:
    """`pymultiling.pmi.compare`'s table to read: tokens and scores with one digit, shares in percent."""
    shown = table.copy()
    for column in table.columns[2:]:
        percent = column in ("proportion", "top_share")
        shown[column] = table[column].map("{:.2%}".format if percent else "{:.1f}".format)
    return shown.rename(columns={"proportion": "active", "top_share": "of the top 1%"}).to_string(index=False)


def log_change(perplexities: pandas.DataFrame) -> pandas.DataFrame:
    """Change of log-perplexity against row "none", in nats a token; `perplexities` is of `ablation_matrix`."""
    import numpy

    logs = numpy.log(perplexities)
    return (logs - logs.loc["none"]).drop(index="none")


def random_name(name: str) -> str:
    """The row of as many random neurons as set `name` has."""
    return f"random as {name}"


def compare_own_effects(change: pandas.DataFrame) -> pandas.DataFrame:
    """What each language's own neurons do to it, against what they do to the others and what random ones do to it.

    Args:
        change: of `log_change`; rows with the names of columns are languages' own sets.

    Returns:
        Rows: those languages, and their mean. Columns: own, others (mean over the other languages), random (where there
        is such a row), and the ratios own/others and own/random, NaN where what is divided by is not above zero.
    """
    import pandas

    languages = [name for name in change.index if name in change.columns]
    table = pandas.DataFrame(index=languages)
    table["own"] = [change.loc[name, name] for name in languages]
    table["others"] = [change.loc[name].drop(name).mean() for name in languages]
    if all(random_name(name) in change.index for name in languages):
        table["random"] = [change.loc[random_name(name), name] for name in languages]
    table.loc["mean"] = table.mean()
    for other in table.columns[1:]:
        table[f"own/{other}"] = table["own"] / table[other].where(table[other] > 0)
    return table


def perplexity_table(perplexities: pandas.DataFrame) -> str:
    """A table of `ablation_matrix`."""
    return perplexities.to_string(float_format=lambda value: f"{value:,.2f}" if value < 1000 else f"{value:,.0f}")


def change_table(change: pandas.DataFrame) -> str:
    """A table of `log_change`."""
    return (change.round(3) + 0.0).to_string(float_format="{:+.3f}".format)  # + 0.0: no minus before a zero


def own_table(table: pandas.DataFrame) -> str:
    """`compare_own_effects` to read: changes with their sign, ratios as multiples; what exceeds 100 is mostly noise."""
    formats = {column: _multiple if "/" in column else "{:+.3f}".format for column in table}
    return table.round(3).to_string(formatters=formats, na_rep="-")


def _multiple(ratio: float) -> str:
    return "> 100x" if ratio > 100 else f"{ratio:.1f}x"


PARTS = {"understanding": "Under", "attention": "S-ATTN", "ffn": "S-FFN", "generation": "Gen"}


def mwork_table(table: pandas.DataFrame) -> str:
    """`pymultiling.mwork` to read, as the paper lays it out: a cross where a part is without neurons, and the changes."""
    shown = table.copy()
    for part in PARTS:
        shown[part] = ["✓" if on else "✗" for on in table[part]]
    for column in ("english", "others"):
        shown[column] = table[column].map("{:.3f}".format)
    for column in ("d_english", "d_others", "delta"):
        shown[column] = table[column].map(lambda value: f"{round(value, 3) + 0.0:+.3f}")
    spread = table["delta_std"].map(lambda value: "" if value != value else f" ± {value:.3f}")
    shown["delta"] += spread
    shown["count"] = table["count"].map("{:,.0f}".format)
    names = {"english": "Eng", "others": "n-Eng", "d_english": "ΔEng", "d_others": "Δn-Eng", "delta": "Δ"}
    return shown.drop(columns="delta_std").rename(columns={**PARTS, **names}).to_string(index=False)


def setting_name(row: pandas.Series) -> str:
    """A row of `pymultiling.mwork` in words: where neurons are off, and which."""
    off = [part for part in PARTS if not row[part]]
    if len(off) == len(PARTS):
        where = "everywhere"
    elif len(off) > 1:
        where = f"all but {next(part for part in PARTS if row[part])}"
    else:
        where = off[0] if off else "nowhere"
    return f"{where}: {row['neurons']}"
