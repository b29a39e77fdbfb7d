"""The targets of the GPU kernels, and whether the measured rows meet them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.gpu.workload import COUNTS, EXACT, FAST, FFN_V_O

Tables: TypeAlias = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Target:
    """A bound for a column of the first row of a table that matches `where`.

    Attributes:
        description: the target in words; results files contain it.
        table: name of the table.
        where: the columns and values that the row must have.
        column: the column with the measured value.
        minimum: the value's lower bound.
        maximum: the value's upper bound. If it is None, `minimum` is the bound.
    """

    description: str
    table: str
    where: dict[str, str]
    column: str
    minimum: float | None = None
    maximum: float | None = None

    def judge(self, tables: Tables) -> dict[str, object]:
        """Compares the measured value with the bound.

        Returns:
            The target's row: "target" (the description), "bound", "measured" and "met". If there is no measured value,
            "measured" is the reason and "met" is None.
        """
        rows = [row for row in tables.get(self.table, []) if self.where.items() <= row.items()]
        value = rows[0].get(self.column) if rows else None
        reason = (rows[0].get("skipped") or rows[0].get("failed")) if rows else None
        if value is None:
            met = None
        elif self.maximum is None:
            met = self.minimum <= value
        else:
            met = value <= self.maximum
        bound = f">= {self.minimum:g}" if self.maximum is None else f"<= {self.maximum:g}"
        measured = (reason or "not measured") if value is None else value
        return {"target": self.description, "bound": bound, "measured": measured, "met": met}


def judge(tables: Tables, backend: str) -> list[dict[str, object]]:
    """Returns a row for every target. The column "met" is None if nothing was measured."""
    return [target.judge(tables) for target in _targets(tables, backend)] + [_within_budget(tables)]


def _targets(tables: Tables, backend: str) -> Iterator[Target]:
    """Yields the targets of all tables, for the rows of one backend."""

    def operator(title: str) -> dict[str, str]:
        return {"operator": title, "backend": backend}

    gated_ffn, qk_importance = operator("gated_ffn"), operator("qk_importance, exact")
    yield Target("gated_ffn with all statistics: share of the copy rate", "operators", gated_ffn, "of copy rate", 0.9)
    yield Target("qk_importance, exact: share of the exp2 rate", "operators", qk_importance, "of exp2 rate", 0.8)
    yield Target(
        "qk_importance, exact: q and k, times as fast as the published formulation of q alone",
        "q and k",
        {},
        "times faster",
        11,  # docs/gpu.md predicts 9 for the formulation's bfloat16 tensors
    )
    for run, maximum in ((COUNTS, 1.02), (FFN_V_O, 1.0), (EXACT, 2.0), (FAST, 1.3)):
        yield Target(f"{run}: times forward", "model, times", {"run": run}, "times forward", maximum=maximum)
    for run in (COUNTS, FFN_V_O, EXACT, FAST):
        yield Target(
            f"{run}: memory over forward, share", "model, memory", {"run": run}, "share over forward", maximum=0.02
        )
    for row in tables.get("operators", []):
        if row["backend"] == backend:
            where = {name: row[name] for name in ("operator", "size", "backend")}
            # The second kernel of nearest_neighbors looks at the rows that the first has left open.
            most = 2 if row["operator"] == "nearest_neighbors" else 1
            description = f"{row['operator']}, {row['size']}: launches a call"
            yield Target(description, "operators", where, "launches", maximum=most)


def _within_budget(tables: Tables) -> dict[str, object]:
    """Returns the row of the target that all errors are within their budget."""
    checked = [row for row in tables.get("errors", []) if row.get("within budget") is not None]
    within = sum(row["within budget"] for row in checked)
    return {
        "target": "errors against float64: at most twice those of plain PyTorch, and the tests' floor",
        "bound": "all",
        "measured": f"{within} of {len(checked)}" if checked else "not measured",
        "met": within == len(checked) if checked else None,
    }
