"""The card of a published folder: README.md of its repository, with contents, loading code and origin."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from pymultiling.data.languages import language_codes
from pymultiling.hub.contents import Contents
from pymultiling.hub.publishing import CardRecord, RunRecord, hub_model
from pymultiling.hub.snippet import snippet
from pymultiling.results.tables import markdown_table

GENERIC_CARD: CardRecord = {
    "title": "Neurons of a language model",
    "about": "Sets or statistics of neurons.",
    "papers": {},
}
MAX_FILES_SHOWN = 4  # of a corpus of many files
PACKAGED_MODELS = {"embedded": "the model in the package"}  # {name in a record: name in a card}


def make_card(folder: Path, record: RunRecord, repo_id: str, revision: str | None = None) -> str:
    """Returns the text of the card.

    Args:
        folder: the folder of the files.
        record: the run's record as it is published: `publishing.public_record`.
        repo_id: the repository, OWNER/NAME.
        revision: the branch of the repository; None: main.
    """
    contents, model = Contents(folder, record["files"]), hub_model(record)
    model_record = record.get("model") or {}
    recorded_name, commit = model_record.get("name"), model_record.get("revision")
    name = None if recorded_name is None else PACKAGED_MODELS.get(recorded_name, recorded_name)
    card = record.get("card") or GENERIC_CARD
    loader = model_record.get("loader") or "AutoModelForCausalLM"  # of earlier versions, whose records lack it
    repository_arguments = _call_arguments(repo_id, revision)
    model_arguments = model and _call_arguments(model, commit)
    parts = [
        _metadata(record, contents, model),
        f"# {card['title']}{f': {name}' if name else ''}",
        f"{card['about']} Made with pymultiling {record['versions']['pymultiling']}.",
        "## What is inside",
        *contents.tables(),
        *_tables_and_plots(record["files"]),
        "## How to load it",
        _code("python", snippet(contents, record["files"], repository_arguments, model_arguments, loader)),
    ]
    if record.get("command") is not None:
        parts += ["## How it was made", *_origin(record, card["papers"], model)]
    return "\n\n".join(parts) + "\n"


def _metadata(record: RunRecord, contents: Contents, model: str | None) -> str:
    from huggingface_hub import ModelCardData

    names = [name for paths in contents.folders.values() for name in paths]
    data = ModelCardData(
        library_name="pymultiling",
        base_model=model,
        language=language_codes([*names, *(record.get("corpora") or ())]) or None,
        tags=["multilingual", "interpretability", "language-neurons"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _tables_and_plots(files: list[str]) -> list[str]:
    tables = [f"`{name}`" for name in files if name.endswith(".csv")]
    plots = [f"![{name}](<{name}>)" for name in files if name.endswith((".png", ".svg"))]
    documents = [f"[{name}](<{name}>)" for name in files if name.endswith(".pdf")]  # pages do not show them
    return [
        *([f"Tables: {', '.join(tables)}."] if tables else []),
        *([f"Plots: {', '.join(documents)}."] if documents else []),
        *plots,
    ]


def _call_arguments(name: str, revision: str | None) -> str:
    return json.dumps(name) if revision is None else f"{json.dumps(name)}, revision={json.dumps(revision)}"


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def _origin(record: RunRecord, papers: Mapping[str, str], model: str | None) -> list[str]:
    """Returns the command, the model, the versions, the corpora and the papers."""
    facts: list[str] = []
    if model_record := record.get("model"):
        if model:
            source = f"[{model}](https://huggingface.co/{model}), commit `{model_record['revision']}`"
        else:
            source = f"{model_record['name']}, not from the Hub"
        device = record.get("device") or "an unknown device"
        facts.append(f"model: {source}; {model_record['type']}, {model_record['dtype']}, on {device}")
    if record.get("rule") is not None:
        facts.append(f"rule: {record['rule']}")
    if record.get("seed") is not None:
        facts.append(f"seed: {record['seed']}")
    if record.get("started") is not None:
        facts.append(f"started: {record['started']}")
    facts.append("versions: " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()))
    parts = [_code("", command_line(record))] if record.get("command_line") else []
    parts.append("\n".join(f"- {fact}" for fact in facts))
    if record.get("corpora"):
        parts.append(_corpora_table(record["corpora"]))
    sources = [f"[arXiv {number}](https://arxiv.org/abs/{number}) ({use})" for number, use in papers.items()]
    return [*parts, f"Sources of the method: {'; '.join(sources)}."] if sources else parts


def _corpora_table(corpora: Mapping[str, Mapping[str, str | dict[str, str]]]) -> str:
    """Returns a table with the SHA-256 of every corpus: of its file, of its files, or, for `demo`, of its texts."""
    rows: list[list[object]] = []
    for name, corpus in corpora.items():
        for key, value in corpus.items():
            if isinstance(value, dict):
                rows += [[name, file, f"`{digest}`"] for file, digest in list(value.items())[:MAX_FILES_SHOWN]]
                if len(value) > MAX_FILES_SHOWN:
                    rows.append([name, f"and {len(value) - MAX_FILES_SHOWN:,} more files", "in `run.json`"])
            elif key != "file":
                rows.append([name, corpus.get("file", key), f"`{value}`"])
    is_remote = any("fingerprints" in corpus for corpus in corpora.values())
    return markdown_table(["corpus", "file", "fingerprint" if is_remote else "SHA-256"], rows)


def command_line(record: RunRecord) -> str:
    """Returns the command line of the run with all defaults, as far as it is published."""
    return shlex.join(["pymultiling", record["command"], *chain.from_iterable(record["command_line"].values())])
