"""The tables of a paper that `reproduce` makes: the figures of their kinds, and how certain the values are."""

from __future__ import annotations

from pymultiling.results.report import paper_figures
from pymultiling.results.report.figures import Figure
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section, ablation, activity, ilo, mwork, overlap, pmi, sets, ternary

# {part of the results, the file that shows it: the sections whose figures it has}
KINDS = {
    "report.csv": (sets, overlap),
    "proportion.csv": (activity,),
    "histogram.csv": (sets, overlap, ternary),
    "log_change.csv": (ablation,),
    "mwork.csv": (mwork,),
    "ilo.csv": (ilo,),
    "table.csv": (pmi,),
}
SOURCES = {"plnd": "arXiv 2402.18815, section 2", "ternary": "arXiv 2505.21505"}  # of the effects on perplexity


def figures(results: Results) -> list[Figure]:
    """Makes the figures of the tables that there are."""
    found: list[Figure] = []
    for file, sections in KINDS.items():
        if results.has(file):
            for section in sections:
                found += section.figures(results)
    if results.has("intervals.csv"):
        paper = str((results.record.get("arguments") or {}).get("paper"))
        table = results.table("intervals.csv", ("language", "row"))
        found.append(paper_figures.effects(table, SOURCES.get(paper, SOURCES["plnd"])))
    if results.has("table1.csv"):
        table = results.table("table1.csv", ("task", "metric", "language", "neurons"))
        found.append(paper_figures.table1(table))
    if results.has("kinds.csv"):
        found.append(paper_figures.kinds(results.table("kinds.csv", ("task", "metric", "language", "neurons"))))
    if results.has("mwork.csv"):
        found.append(paper_figures.deltas(results.table("mwork.csv", ("task", "metric", "neurons"))))
    if results.has("means.csv"):
        found.append(paper_figures.means(results.table("means.csv")))
    if results.has("answers.csv"):
        found.append(paper_figures.answers(results.table("answers.csv", ("measure", "prompt"))))
    if results.has("activity.csv"):
        found.append(paper_figures.activity(results.table("activity.csv", ("measure", "prompt"))))
        found.append(paper_figures.inhibition(results.table("inhibition.csv", ("prompt",))))
    found.append(paper_figures.samples(results.table("samples.csv", ("measured", "language"))))
    return found


SECTION = Section(
    order=5,
    title="A paper's tables",
    about="The tables and figures of the paper on this model and these texts. What differs from the paper and what was "
    "not measured is listed above.",
    commands=("reproduce",),
    figures=figures,
)
