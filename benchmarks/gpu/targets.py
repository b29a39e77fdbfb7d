"""What the GPU kernels are meant to reach, and whether the rows say that they do."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu.workload import COUNTS, EXACT, FAST, FFN_V_O

Tables = dict[str, list[dict]]


@dataclass(frozen=True)
class Target:
    """A column of the first row of a table that has all of `where`, and the least or most it may be."""

    says: str
    table: str
    where: dict[str, str]
    column: str
    least: float | None = None
    most: float | None = None

    def judge(self, tables: Tables) -> dict:
        rows = [row for row in tables.get(self.table, []) if self.where.items() <= row.items()]
        value = rows[0].get(self.column) if rows else None
        reason = (rows[0].get("skipped") or rows[0].get("failed")) if rows else None
        met = None if value is None else self.least <= value if self.most is None else value <= self.most
        bound = f">= {self.least:g}" if self.most is None else f"<= {self.most:g}"
        measured = (reason or "not measured") if value is None else value
        return {"target": self.says, "bound": bound, "measured": measured, "met": met}


def judge(tables: Tables, backend: str) -> list[dict]:
    """A row for every target; "met" is None where nothing was measured."""
    return [target.judge(tables) for target in _targets(tables, backend)] + [_within_budget(tables)]


def _targets(tables: Tables, backend: str) -> Iterator[Target]:
    def operator(title: str) -> dict[str, str]:
        return {"operator": title, "backend": backend}

    gated_ffn, qk_importance = operator("gated_ffn"), operator("qk_importance, exact")
    yield Target("gated_ffn with all statistics: share of the copy rate", "operators", gated_ffn, "of copy rate", 0.9)
    yield Target("qk_importance, exact: share of the exp2 rate", "operators", qk_importance, "of exp2 rate", 0.8)
    yield Target(
        "qk_importance, exact: times as fast as the published formulation of q alone",
        "q and k",
        {},
        "times faster",
        40,
    )
    for run, most in ((COUNTS, 1.02), (FFN_V_O, 1.0), (EXACT, 2.0), (FAST, 1.3)):
        yield Target(f"{run}: times forward", "model, times", {"run": run}, "times forward", most=most)
    for run in (COUNTS, FFN_V_O, EXACT, FAST):
        yield Target(
            f"{run}: memory over forward, share", "model, memory", {"run": run}, "share over forward", most=0.02
        )
    for row in tables.get("operators", []):
        if row["backend"] == backend:
            where = {name: row[name] for name in ("operator", "size", "backend")}
            yield Target(f"{row['operator']}, {row['size']}: launches a call", "operators", where, "launches", most=1)


def _within_budget(tables: Tables) -> dict:
    judged = [row for row in tables.get("errors", []) if row.get("within budget") is not None]
    kept = sum(row["within budget"] for row in judged)
    return {
        "target": "errors against float64: at most twice those of plain PyTorch, and the tests' floor",
        "bound": "all",
        "measured": f"{kept} of {len(judged)}" if judged else "not measured",
        "met": kept == len(judged) if judged else None,
    }
