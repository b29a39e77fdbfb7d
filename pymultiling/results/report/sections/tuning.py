"""Training of some neurons or layers."""

from __future__ import annotations

from pymultiling.results.report.figures import Column, Figure, curves, lying_bars, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section

LOSS = (Column("step", "step"), Column("loss", "loss (nats a token)", ".4f"))
CHANGE = (
    Column("language", "language", control="language"),
    Column("time", "model"),
    Column("perplexity", "perplexity", ",.3f"),
)


def figures(results: Results) -> list[Figure]:
    """Makes a curve of the loss, and bars of the perplexities before and after."""
    log = results.table("log.csv")
    rows = rows_of(log[["step", "loss"]])
    found = [
        Figure(
            name="loss",
            title="Loss",
            reading="The curve is the loss of each training step; it should fall.",
            source="cross-entropy of the next token; arXiv 2402.18815, section 3.3, for the training of neurons",
            alternative=f"Curve of the loss over {len(rows)} steps.",
            columns=LOSS,
            rows=rows,
            chart=curves(LOSS, "step", "loss", None, has_points=len(rows) < 50, has_zero=False),
            value="loss",
        )
    ]
    if results.has("perplexity.csv"):
        table = results.table("perplexity.csv", ("language",))
        long = table.melt("language", ["before", "after"], "time", "perplexity")
        found.append(
            Figure(
                name="perplexity",
                title="Perplexity before and after",
                reading="Two bars are the perplexity of a language's held-out text before and after training; lower is "
                "better.",
                source="exp of the mean cross-entropy",
                alternative="Pairs of bars for each language.",
                columns=CHANGE,
                rows=rows_of(long.sort_values("language", kind="stable")),
                chart=lying_bars(CHANGE, "language", "perplexity", "time"),
                value="perplexity",
            )
        )
    return found


SECTION = Section(
    order=100,
    title="Training",
    about="What training some neurons or layers does.",
    commands=("tune",),
    figures=figures,
)
