"""Interlingual local overlap, retrieval of translations, and CKA."""

from __future__ import annotations

from pymultiling.results.report.figures import DECIMALS, Column, Figure, curves, heat_map, highest, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

SOURCE = "arXiv 2503.11280"
LANGUAGE = Column("language", "language", control="language")
LAYER = Column("layer", "layer (0: embeddings)", control="layer")
BY_LANGUAGE = (
    LANGUAGE,
    LAYER,
    Column("ilo", "ILO", DECIMALS),
    Column("bridge", "bridge", DECIMALS),
    Column("reach", "reach", DECIMALS),
)
MEANS = (LAYER, Column("measure", "mean of"), Column("value", "mean over languages or pairs", DECIMALS))


def figures(results: Results) -> list[Figure]:
    """Makes curves of the means by layer and a heat map of ILO by language and layer."""
    table = results.table("ilo.csv", ("language",))
    means = table.groupby("layer")[["ilo", "bridge", "reach"]].mean()
    if results.has("retrieval.csv"):
        means["retrieval"] = results.table("retrieval.csv").groupby("layer")["accuracy"].mean()
        means["CKA"] = results.table("cka.csv").groupby("layer")["cka"].mean()
    rows = rows_of(table[[column.name for column in BY_LANGUAGE]])
    top = highest(rows, 2)
    alternative = "Heat map of ILO by language and layer."
    if top is not None:
        alternative += f" The highest value: {top[0]}, layer {top[1]}, {top[2]:.2f}."
    best = means["ilo"].idxmax()
    has_pairs = "CKA" in means
    return [
        Figure(
            name="means",
            title="How far languages share one space, by layer",
            reading="ILO is the harmonic mean of bridge, the share of sentences whose neighbours are in several other "
            "languages, and reach, the share of the other languages among the neighbours"
            + ("; retrieval is how often the nearest sentence is the translation." if has_pairs else "."),
            source=f"{SOURCE}, ILO" + ("; CKA: arXiv 1905.00414, eq. 3 and 4" if has_pairs else ""),
            alternative=f"Curves by layer. ILO is highest in layer {best}: {means['ilo'].max():.2f}.",
            columns=MEANS,
            rows=rows_of(means.reset_index().melt("layer", var_name="measure")),
            chart=curves(MEANS, "layer", "value", "measure"),
            value="value",
        ),
        Figure(
            name="ilo",
            title="ILO by language and layer",
            reading="A cell near 1 is a language whose sentences have neighbours in many other languages; "
            "0 is a language on its own.",
            source=f"{SOURCE}, ILO",
            alternative=alternative,
            columns=BY_LANGUAGE,
            rows=rows,
            chart=heat_map(BY_LANGUAGE, "layer", "language", "ilo"),
            value="ilo",
        ),
    ]


SECTION = Section(
    order=70,
    title="Interlingual local overlap",
    about="How far languages share one space of meanings, layer by layer.",
    commands=("ilo",),
    figures=figures,
)
