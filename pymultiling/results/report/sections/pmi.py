"""Parallel multilingual input: scores and active neurons by number of input languages."""

from __future__ import annotations

from pymultiling.results.report.figures import PERCENT, Column, Figure, bars, curves, rows_of
from pymultiling.results.report.run_folder import Results
from pymultiling.results.report.sections import Section
from pymultiling.results.tables import POSITION_LABELS

SOURCE = "arXiv 2403.09073, section 3"
PROMPT = Column("prompt", "prompt")
TABLE = (
    PROMPT,
    Column("measure", "measured"),
    Column("value", "share", PERCENT),
)
SHARES = {"proportion": "active neurons", "top_share": "share of the most active 1%"}
SCORES = (PROMPT, Column("measure", "metric"), Column("value", "score (%)", ".1f"))
BY_LAYER = (Column("layer", "layer", control="layer"), PROMPT, Column("active", "active neurons", PERCENT))


def figures(results: Results) -> list[Figure]:
    """Makes bars of active neurons and of scores for each kind of prompt, and curves over the layers."""
    table = results.table("table.csv", ("prompt",))
    positions = (results.record.get("arguments") or {}).get("positions") or results.record.get("positions")
    where = POSITION_LABELS.get(positions, "the counted positions") if isinstance(positions, str) else "the positions"
    shares = table.rename(columns=SHARES).melt("prompt", list(SHARES.values()), "measure", "value")
    active = ", ".join(f"{row['prompt']} {row['proportion']:.1%}" for _, row in table.iterrows())
    found = [
        Figure(
            name="active",
            title="Active neurons by prompt",
            reading="Fewer active neurons with more languages in the prompt (PMI-1, PMI-2, ...) than with one (direct, "
            f"pivot) is what the paper finds; counted at {where}.",
            source=SOURCE,
            alternative=f"Bars for each kind of prompt. Active neurons: {active}.",
            columns=TABLE,
            rows=rows_of(shares),
            chart=bars(TABLE, "prompt", "value", "measure", is_percent=True),
            value="value",
        )
    ]
    metrics = [name for name in map(str, table) if name not in ("prompt", "languages", "tokens", *SHARES)]
    if metrics:
        found.append(
            Figure(
                name="scores",
                title="Scores by prompt",
                reading="A bar is the metric's value for the answers to prompts of this kind; higher is better.",
                source=SOURCE,
                alternative=f"Bars of {', '.join(metrics)} for each kind of prompt.",
                columns=SCORES,
                rows=rows_of(table.melt("prompt", metrics, "measure", "value")),
                chart=bars(SCORES, "prompt", "value", "measure"),
                value="value",
            )
        )
    layers = results.table("by_layer.csv", ("prompt",)).rename(columns={"proportion": "active"})
    found.append(
        Figure(
            name="by layer",
            title="Active neurons by layer and prompt",
            reading=f"A curve is the share of a layer's FFN neurons that are active at {where}.",
            source=SOURCE,
            alternative="Curves over the layers, one for each kind of prompt.",
            columns=BY_LAYER,
            rows=rows_of(layers[[column.name for column in BY_LAYER]]),
            chart=curves(BY_LAYER, "layer", "active", "prompt", is_percent=True),
            value="active",
        )
    )
    return found


SECTION = Section(
    order=80,
    title="Parallel multilingual input",
    about="What input in several languages at once does to answers and active neurons.",
    commands=("pmi",),
    figures=figures,
)
