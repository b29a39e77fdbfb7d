"""The card of a published folder, README.md of its repository: what is inside, how it was made, how it is loaded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from pymultiling.data.languages import language_codes
from pymultiling.hub.contents import Contents
from pymultiling.hub.publishing import hub_model
from pymultiling.hub.snippet import snippet
from pymultiling.results.tables import markdown_table as table

GENERIC = {"title": "Neurons of a language model", "about": "Sets or statistics of neurons.", "papers": {}}
SHOWN = 4  # of a corpus of many files
OURS = {"embedded": "the model in the package"}


def make_card(folder: Path, record: Mapping, repo_id: str, revision: str | None = None) -> str:
    """The card's text.

    Args:
        folder: where the files are.
        record: the run's, as it is published: `publishing.public_record`.
        repo_id: the repository, OWNER/NAME.
        revision: its branch; None: main.
    """
    contents, model = Contents(folder, record["files"]), hub_model(record)
    known = record.get("model") or {}
    name, commit = OURS.get(known.get("name"), known.get("name")), known.get("revision")
    declared = record.get("card") or GENERIC
    title, about = declared["title"], declared["about"]
    parts = [
        _metadata(record, contents, model),
        f"# {title}{f': {name}' if name else ''}",
        f"{about} Made with pymultiling {record['versions']['pymultiling']}.",
        "## What is inside",
        *contents.tables(),
        *_tables_and_plots(record["files"]),
        "## How to load it",
        _code("python", snippet(contents, record["files"], _call(repo_id, revision), model and _call(model, commit))),
    ]
    if "command" in record:
        parts += ["## How it was made", *_made(record, declared["papers"], model)]
    return "\n\n".join(parts) + "\n"


def _metadata(record: Mapping, contents: Contents, model: str | None) -> str:
    from huggingface_hub import ModelCardData

    names = [name for named in contents.folders.values() for name in named]
    data = ModelCardData(
        library_name="pymultiling",
        base_model=model,
        language=language_codes([*names, *(record.get("corpora") or ())]) or None,
        tags=["multilingual", "interpretability", "language-neurons"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _tables_and_plots(files: list[str]) -> list[str]:
    tables = [f"`{name}`" for name in files if name.endswith(".csv")]
    plots = [f"![{name}](<{name}>)" for name in files if name.endswith(".png")]
    return [*([f"Tables: {', '.join(tables)}."] if tables else []), *plots]


def _call(name: str, revision: str | None) -> str:
    return json.dumps(name) if revision is None else f"{json.dumps(name)}, revision={json.dumps(revision)}"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _made(record: Mapping, papers: Mapping[str, str], model: str | None) -> list[str]:
    """The command, the model, the corpora, the versions and the papers."""
    facts = []
    if "model" in record:
        known = record["model"]
        where = (
            f"[{model}](https://huggingface.co/{model}), commit `{known['revision']}`"
            if model
            else f"{known['name']}, not from the Hub"
        )
        facts.append(
            f"model: {where}; {known['type']}, {known['dtype']}, on {record.get('device', 'an unknown device')}"
        )
    facts += [f"{key}: {record[key]}" for key in ("rule", "seed") if record.get(key) is not None]
    facts.append(f"started: {record['started']}")
    facts.append("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    parts = [_code("", command_line(record))] if "command_line" in record else []
    parts.append("\n".join(f"- {fact}" for fact in facts))
    if record.get("corpora"):
        parts.append(_corpora(record["corpora"]))
    sources = [f"[arXiv {number}](https://arxiv.org/abs/{number}) ({what})" for number, what in papers.items()]
    return [*parts, f"Sources of the method: {'; '.join(sources)}."] if sources else parts


def _corpora(corpora: Mapping[str, Mapping]) -> str:
    """SHA-256 of every corpus: of a file, of several, or, of `demo`, of the texts."""
    rows = []
    for name, known in corpora.items():
        for key, value in known.items():
            if isinstance(value, dict):
                rows += [[name, file, f"`{one}`"] for file, one in list(value.items())[:SHOWN]]
                rows += (
                    [[name, f"and {len(value) - SHOWN:,} more files", "in `run.json`"]] if len(value) > SHOWN else []
                )
            elif key != "file":
                rows.append([name, known.get("file", key), f"`{value}`"])
    remote = any("fingerprints" in known for known in corpora.values())
    return table(["corpus", "file", "fingerprint" if remote else "SHA-256"], rows)


def command_line(record: Mapping) -> str:
    """What was typed, with every default, as far as it is published."""
    return shlex.join(["pymultiling", record["command"], *chain.from_iterable(record["command_line"].values())])
