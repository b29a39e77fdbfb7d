"""What of a run's folder others may have: the library's own files, and its record without this machine's folders."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Container, Mapping
from pathlib import Path

from safetensors import SafetensorError

from pymultiling.errors import HubError
from pymultiling.results.run import RECORD_FILE
from pymultiling.runtime.storage import load_tensors, read_metadata, save_tensors

CARD = "README.md"
KINDS = (".safetensors", ".csv", ".png")
WHOLE = ("card", "files", "published_whole", "started", "versions")  # parts of every record without paths


def read_record(folder: Path, whose: str) -> dict | None:
    """run.json of a folder, which belongs to `whose`; None where there is none; HubError where it is something else."""
    if not (folder / RECORD_FILE).is_file():
        return None
    try:
        record = json.loads((folder / RECORD_FILE).read_text("utf-8"))
        if "pymultiling" in record["versions"] and all(_stays_inside(name) for name in record["files"]):
            return record
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise HubError(f"the {RECORD_FILE} of {whose} is no record of a run of pymultiling: give another, or make it again")


def _stays_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and not set(name) & set("\\:")


def own_and_others(folder: Path, record: dict | None) -> tuple[list[str], list[str]]:
    """The names of the files that may be published, and of those that may not.

    A safetensors file may where it names a format of the library; a table or a plot where the run's record has it. The
    record, and a card that was pulled with it, are neither: they are made anew.
    """
    known = set() if record is None else set(record["files"])
    own, others = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name == RECORD_FILE or (name == CARD and CARD in known):
            continue
        if path.suffix == ".safetensors":
            is_own = metadata_of(path).get("format", "").startswith("pymultiling.")
        else:
            is_own = path.suffix in KINDS and name in known
        (own if is_own else others).append(name)
    return own, others


def published_files(folder: Path, whose: str) -> list[str]:
    """The names of run.json of a pulled folder and of the files that it lists.

    Raises:
        HubError: there is none, or it lists what is never published.
    """
    record = read_record(folder, whose)
    if record is None:
        raise HubError(
            f"{whose} has no {RECORD_FILE}, so push did not write it: give a repository that pymultiling push made"
        )
    for name in record["files"]:
        if name != CARD and Path(name).suffix not in KINDS:
            raise HubError(f"the {RECORD_FILE} of {whose} lists {name}, which push never writes: it is not pulled")
    return sorted({RECORD_FILE, *record["files"]})


def metadata_of(path: Path) -> dict[str, str]:
    """The strings beside the tensors of a safetensors file; none where it is damaged."""
    try:
        return read_metadata(path)
    except SafetensorError:
        return {}


def hub_model(record: Mapping) -> str | None:
    """The name of the run's model on the Hub; None where it was a folder: only what came from the Hub has a commit."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    model = record.get("model") or {}
    try:
        validate_repo_id(model.get("name"))
    except HFValidationError:
        return None
    return model["name"] if model.get("revision") else None


def public_record(record: Mapping, files: list[str]) -> dict:
    """The record with these files, and of every path but its last part; what the run declares to be no path stays whole."""
    kept, whole = hub_model(record), record.get("published_whole") or {"arguments": [], "facts": []}
    facts = {*WHOLE, *whole["facts"]}
    public = {key: value if key in facts else without_folders(value, kept) for key, value in record.items()}
    for part in ("arguments", "command_line"):
        if part in record:
            public[part] |= {name: one for name, one in record[part].items() if name in whole["arguments"]}
    if "model" in record and kept is None:
        public["model"]["revision"] = None
    return {**public, "files": files}


def publishable(file: Path, record: Mapping, scratch: Path) -> Path:
    """The file; or, where its metadata name a folder as its model, a copy of it in `scratch` with the last part alone."""
    metadata = metadata_of(file) if file.suffix == ".safetensors" else {}
    name = metadata.get("model", "")
    if without_folders(name, hub_model(record)) == name:
        return file
    form = metadata.pop("format")
    tensors, _ = load_tensors(file, form, "a file to publish")
    copy = scratch / f"{len(list(scratch.iterdir()))}.safetensors"
    save_tensors(copy, tensors, form, {**metadata, "model": without_folders(name, None)})
    return copy


def without_folders(value, kept: str | None):
    """Paths in strings, NAME=PATH, and lists and dicts of these, without their folders; `kept` and the Hub's stay whole."""
    if isinstance(value, dict):
        shown = {}
        for name, one in value.items():
            shown[_free(without_folders(name, kept), shown)] = without_folders(one, kept)
        return shown
    if isinstance(value, list):
        return [without_folders(one, kept) for one in value]
    if not isinstance(value, str) or value == kept or value.startswith("hf://"):
        return value
    name, found, path = value.partition("=")
    if found and "://" not in name and _last(name) == name:
        return f"{name}={without_folders(path, None)}"
    return _last(value)


def _free(name: str, taken: Container[str]) -> str:
    """The name, or one with a number where another file in another folder has it."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _last(path: str) -> str:
    if "://" in path:
        path = path.partition("?")[0]  # what is behind it may be a key
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
