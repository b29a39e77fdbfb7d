"""How often FFN neurons are active."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors import SafetensorError

from pymultiling.neurons.set_files import files_by_name
from pymultiling.results.report.figures import (
    MOST_CURVES,
    PERCENT,
    WHOLE,
    Column,
    Figure,
    Specification,
    curves,
    heat_map,
    highest,
    rows_of,
)
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section
from pymultiling.runtime.storage import read_metadata

SHOWN_RANKS = 100  # points of a curve over ranks
SOURCE = "arXiv 2402.16438, section 2; a neuron is active where act(gate) > 0"
LANGUAGE = Column("language", "language", control="language")
BY_LAYER = (
    Column("layer", "layer", control="layer"),
    LANGUAGE,
    Column("active", "share of the layer's neurons, mean", PERCENT),
)


def figures(results: Results) -> list[Figure]:
    """Makes curves, or heat maps of many languages: active neurons by layer, and the most active 1%."""
    table = results.table("proportion.csv").melt("layer", var_name="language", value_name="active")
    rows = rows_of(table)
    mark, chart = _mark_and_chart(table["language"].nunique(), BY_LAYER, "layer", "active", has_points=True)
    top = highest(rows, 2)
    alternative = f"{mark}s, one for each language: the share of active FFN neurons by layer."
    if top is not None:
        alternative += f" The largest share: {top[1]}, layer {top[0]}, {top[2]:.1%}."
    by_layer = Figure(
        name="by layer",
        title="Active neurons by layer",
        reading=f"A {mark.lower()} is the share of a layer's FFN neurons that are active at a position of the "
        "language's texts, in the mean over the positions.",
        source=SOURCE,
        alternative=alternative,
        columns=BY_LAYER,
        rows=rows,
        chart=chart,
        value="active",
    )
    return [by_layer, _most_active(results)]


def _most_active(results: Results) -> Figure:
    table = results.table("most_active.csv")
    step = -(-len(table) // SHOWN_RANKS)
    positions = _positions(results)
    long = table.iloc[::step].melt("rank", var_name="language", value_name="count")
    long["count"] = long["count"].astype(object)
    is_share = all(name in positions for name in long["language"])
    if is_share:
        long["count"] = [count / positions[name] for count, name in zip(long["count"], long["language"])]
    title = "share of the positions" if is_share else "positions"
    columns = (Column("rank", "rank"), LANGUAGE, Column("count", title, PERCENT if is_share else WHOLE))
    mark, chart = _mark_and_chart(long["language"].nunique(), columns, "rank", "count", has_points=False)
    return Figure(
        name="most active",
        title="The most active 1% of the neurons",
        reading=f"A {mark.lower()} is in what share of the positions a neuron is active, from the model's most active "
        f"neuron (rank 0) on; a {mark.lower()} that stays high means that the same neurons are active everywhere."
        + (f" Every {step}th rank is shown." if step > 1 else ""),
        source="arXiv 2403.09073, its curves of the top 1% of the neurons",
        alternative=f"{mark}s, one for each language: how often the neurons of each rank are active.",
        columns=columns,
        rows=rows_of(long),
        chart=chart,
        value="count",
    )


def _mark_and_chart(
    languages: int, columns: Sequence[Column], x: str, y: str, *, has_points: bool
) -> tuple[str, Specification]:
    """Returns curves or, of many languages, a heat map with a row for each, and what a language is in it."""
    if languages > MOST_CURVES:
        return "Row", heat_map(columns, x, "language", y)
    is_percent = any(column.name == y and column.form == PERCENT for column in columns)
    return "Curve", curves(columns, x, y, "language", is_percent=is_percent, has_points=has_points)


def _positions(results: Results) -> dict[str, int]:
    """Returns {language: counted positions}, as far as the files of the counts say them."""
    found = {}
    for name, file in files_by_name(results.folder / "counts").items():
        try:
            tokens = read_metadata(file).get("tokens", "")
        except SafetensorError:
            continue
        if tokens.isdecimal() and int(tokens):
            found[name] = int(tokens)
    return found


SECTION = Section(
    order=40,
    title="Activation counts",
    about="How often FFN neurons are active in the texts of each language.",
    commands=("count",),
    figures=figures,
)
