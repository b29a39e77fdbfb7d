"""What was run: command, model, texts, versions and date, a column for each run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pymultiling.results.report.run_folder import Results

Facts = dict[str, str]


def overview(results: Sequence[Results]) -> list[tuple[str, list[str]]]:
    """Returns rows (fact, its value in each run). A fact that no run has is left out."""
    by_run = [_facts(run) for run in results]
    names = dict.fromkeys(name for facts in by_run for name in facts)
    return [(name, [facts.get(name, "") for facts in by_run]) for name in names]


def _facts(run: Results) -> Facts:
    record = run.record
    facts = {"folder": str(run.place), "command": _command_line(run)}
    facts |= {"started": str(record.get("started") or "unknown")}
    seconds = record.get("seconds")
    if isinstance(seconds, dict) and isinstance(seconds.get("total"), (int, float)):
        facts["took"] = f"{seconds['total']:,.1f} s"
    model = record.get("model")
    if model:
        revision = f", commit {model['revision']}" if model.get("revision") else ""
        facts["model"] = f"{model['name']}{revision} ({model['type']}, {model['dtype']})"
    for name in ("device", "rule", "seed", "understanding", "generation", "lam", "threshold"):
        if record.get(name) is not None:
            facts[name] = str(record[name])
    for kind, name in (("departures", "other than the paper"), ("left_out", "not measured")):
        sentences = record.get(kind)
        if isinstance(sentences, list):
            facts |= {f"{name}, {number}": str(sentence) for number, sentence in enumerate(sentences, 1)}
    reports = record.get("texts")
    for language, entry in (record.get("corpora") or {}).items():
        report = reports.get(language) if isinstance(reports, dict) else None
        facts[f"texts, {language}"] = "; ".join([*_source(entry), *_counts(report)])
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    return {name: value for name, value in facts.items() if value}


def _command_line(run: Results) -> str:
    words = [word for group in (run.record.get("command_line") or {}).values() for word in group]
    return shlex.join(["pymultiling", run.command, *words]) if run.command else ""


def _source(entry: dict[str, object]) -> list[str]:
    """Describes a corpus: its file, and the beginning of each hash."""
    parts = []
    for key, value in entry.items():
        if isinstance(value, dict):
            parts.append(f"{len(value)} files")
        elif key == "file":
            parts.append(str(value))
        else:
            parts.append(f"{'SHA-256' if key == 'sha256' else key} {str(value)[:12]}")
    return parts


def _counts(report: object) -> list[str]:
    """Describes what was read of a corpus, without the counts that are zero."""
    if not isinstance(report, dict):
        return []
    return [f"{count:,} {name.replace('_', ' ')}" for name, count in report.items() if isinstance(count, int) and count]
