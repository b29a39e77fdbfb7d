"""The two files of a model: the numbers as JSON, which keeps the parts that are finished, and as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.experiments.real_models.parts import PARTS
from benchmarks.experiments.real_models.sample import Sample
from pymultiling.results.tables import markdown_table
from pymultiling.runtime.storage import write_atomically


def read_record(path: Path, model: str, sample: Sample) -> dict[str, Any]:
    """Returns the record of a model, or a new one if the file does not exist.

    Returns:
        {"model", "sample", "bits": {language: bits} or None, "parts": {name: {"environment", "seconds", "tables"}}}.

    Raises:
        SystemExit: the file has the record of another sample.
    """
    new = {"model": model, "sample": json.loads(json.dumps(asdict(sample))), "bits": None, "parts": {}}
    if not path.exists():
        return new
    record: dict[str, Any] = json.loads(path.read_text())
    if record["sample"] != new["sample"]:
        different = [name for name, value in new["sample"].items() if record["sample"].get(name) != value]
        raise SystemExit(f"{path} has another sample ({', '.join(different)}): give its options, or another --out")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes the record to the JSON file, and as Markdown next to it."""
    for file, text in ((path, json.dumps(record, indent=1) + "\n"), (path.with_suffix(".md"), markdown(record))):
        with write_atomically(file) as partial:
            partial.write_text(text)


def markdown(record: dict[str, Any]) -> str:
    """Returns the record as a page with a section for each part, in the order of PARTS."""
    blocks = [f"# {record['model']}", "Written by `python -m benchmarks.experiments.real_models`."]
    blocks.append("Sample: " + ", ".join(f"{name} {_text(value)}" for name, value in record["sample"].items()) + ".")
    if record["bits"]:
        bits = ", ".join(f"{language} {value:.2f}" for language, value in record["bits"].items())
        blocks.append(f"Bits that the model needs for a sentence, per byte of the sentence in English: {bits}.")
    for name, part in PARTS.items():
        if name not in record["parts"]:
            continue
        result = record["parts"][name]
        environment, seconds = result["environment"], result["seconds"]
        made = "Measured on {date} at commit {commit}, torch {torch}, {cpu}, threads: {threads}".format(**environment)
        blocks += [f"## {part.title}", part.about, f"{made}; it took {seconds} s."]
        for title, rows in result["tables"].items():
            blocks += [f"### {title}", _table(rows)]
    return "\n\n".join(blocks) + "\n"


def _table(rows: list[dict[str, object]]) -> str:
    """Returns the rows as a table. There are none where no set has a neuron."""
    if not rows:
        return "No rows."
    return markdown_table(list(rows[0]), ([_text(cell) for cell in row.values()] for row in rows))


def _text(value: object) -> str:
    """Returns a cell as text."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value is None else str(value)
