"""Selects the files of a run's folder that may be published, and removes local folders from its record."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container
from pathlib import Path
from typing import TypeAlias, TypedDict, cast

from safetensors import SafetensorError
from safetensors.torch import load_file

from pymultiling.errors import CheckpointError, HubError
from pymultiling.hub.errors import is_valid_repo_id
from pymultiling.results.record_schema import read_run_record
from pymultiling.results.run import RECORD_FILE, REPORT_FILE
from pymultiling.runtime.storage import read_metadata, save_tensors

CARD = "README.md"
PUBLISHED_SUFFIXES = (".safetensors", ".csv", ".png", ".svg", ".pdf")
PATH_FREE_PARTS = ("card", "files", "published_whole", "started", "versions")  # parts of every record without paths

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


class ModelRecord(TypedDict, total=False):
    """The part `model` of a run's record. `loader` is transformers' class that loads the model."""

    name: str
    revision: str | None
    type: str
    dtype: str
    loader: str


class CardRecord(TypedDict):
    """The part `card` of a run's record; papers is {arXiv number: what the command uses of the paper}."""

    title: str
    about: str
    papers: dict[str, str]


class PathFreeNames(TypedDict):
    """The part `published_whole` of a run's record: names of arguments and of parts that hold no paths."""

    arguments: list[str]
    facts: list[str]


class RunRecord(TypedDict, total=False):
    """The parts of run.json that publishing uses. A record may have other parts, and older ones lack some of these.

    Attributes:
        command: name of the command, such as "detect".
        arguments: {name: value} of the command's arguments.
        command_line: {argument: its words on the command line}.
        card: what the model card says about the command.
        published_whole: names of arguments and facts whose values contain no local paths.
        started: when the run began.
        versions: {package: version}.
        seed: seed of the random numbers, or None.
        rule: the rule that selected neurons, as text.
        device: name of the device.
        model: the model that was measured.
        corpora: {name: description} of the input files. A description has the path ("file"), and a hash of the content
            ("sha256") or {file: hash or fingerprint} of several files ("files" or "fingerprints").
        files: names of the result files.
    """

    command: str
    arguments: dict[str, Json]
    command_line: dict[str, list[str]]
    card: CardRecord
    published_whole: PathFreeNames
    started: str
    versions: dict[str, str]
    seed: int | None
    rule: str
    device: str
    model: ModelRecord
    corpora: dict[str, dict[str, str | dict[str, str]]]
    files: list[str]


def read_record(folder: Path, source: str) -> RunRecord | None:
    """Reads run.json of a folder. Returns None if the folder has no run.json.

    Args:
        folder: the folder.
        source: the name of the folder or of the repository, for messages.

    Raises:
        HubError: the file is not the record of a run.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    try:
        record = read_run_record(folder / RECORD_FILE)
    except CheckpointError as error:
        raise _no_record(source, str(error)) from None
    if "pymultiling" not in (record.get("versions") or {}):
        raise _no_record(source, "its versions lack 'pymultiling'")
    return cast("RunRecord", record)


def _no_record(source: str, fault: str) -> HubError:
    return HubError(
        f"the {RECORD_FILE} of {source} is not a record of a pymultiling run ({fault}): give another folder or "
        "repository, or run the command again"
    )


def split_files(folder: Path, record: RunRecord | None) -> tuple[list[str], list[str]]:
    """Returns the names of the files that may be published, and the names of the other files.

    A safetensors file may be published if its metadata names a format of this library; a table or a plot if the run's
    record lists it. The record itself, a pulled card and the report, which names local folders, are in neither list,
    because they are written anew.
    """
    listed = set() if record is None else set(record["files"])
    publishable: list[str] = []
    unpublishable: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name in (RECORD_FILE, REPORT_FILE) or (name == CARD and CARD in listed):
            continue
        if not name.isprintable():
            is_publishable = False  # the record of a pulled folder may not list it
        elif path.suffix == ".safetensors":
            is_publishable = metadata_of(path).get("format", "").startswith("pymultiling.")
        else:
            is_publishable = path.suffix in PUBLISHED_SUFFIXES and name in listed
        (publishable if is_publishable else unpublishable).append(name)
    return publishable, unpublishable


def published_files(folder: Path, source: str) -> list[str]:
    """Returns "run.json" and the names of the files that the run.json of a pulled folder lists, sorted.

    Args:
        folder: the pulled folder.
        source: the name of the repository, for messages.

    Raises:
        HubError: there is no run.json, or it lists a file of a kind that is never published.
    """
    record = read_record(folder, source)
    if record is None:
        raise HubError(
            f"{source} has no {RECORD_FILE}, so push did not write it: give a repository that pymultiling push made"
        )
    for name in record["files"]:
        if name != CARD and Path(name).suffix not in PUBLISHED_SUFFIXES:
            raise HubError(
                f"the {RECORD_FILE} of {source} lists {name}, which push never writes: it is not pulled; give a "
                "repository that pymultiling push made"
            )
    return sorted({RECORD_FILE, *record["files"]})


def metadata_of(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file; empty if the file is damaged."""
    try:
        return read_metadata(path)
    except SafetensorError:
        return {}


def hub_model(record: RunRecord) -> str | None:
    """Returns the name of the run's model on the Hub; None if the model was a local folder.

    Only a model from the Hub has a revision.
    """
    model = record.get("model") or {}
    if not is_valid_repo_id(model.get("name")):
        return None
    return model["name"] if model.get("revision") else None


def public_record(record: RunRecord, files: list[str]) -> RunRecord:
    """Returns the record as it is published.

    Every path is reduced to its last part. Parts and arguments that the run declares to hold no paths are unchanged.

    Args:
        record: the run's record.
        files: the names of the published files.
    """
    model_name = hub_model(record)
    path_free: PathFreeNames = record.get("published_whole") or {"arguments": [], "facts": []}
    path_free_parts = {*PATH_FREE_PARTS, *path_free["facts"]}
    parts = cast("dict[str, Json]", record)
    public = {
        name: part if name in path_free_parts else strip_folders(part, model_name) for name, part in parts.items()
    }
    for name in ("arguments", "command_line"):
        arguments, public_arguments = parts.get(name), public.get(name)
        if isinstance(arguments, dict) and isinstance(public_arguments, dict):
            public_arguments |= {key: value for key, value in arguments.items() if key in path_free["arguments"]}
    model = public.get("model")
    if isinstance(model, dict) and model_name is None:
        model["revision"] = None
    return cast("RunRecord", {**public, "files": files})


def public_copy(file: Path, record: RunRecord, scratch: Path) -> Path:
    """Returns the file to publish: usually the file itself.

    If its metadata name a local folder as the model, a copy in the folder `scratch` is returned. The copy names only
    the last part of the path.
    """
    metadata = metadata_of(file) if file.suffix == ".safetensors" else {}
    name = metadata.get("model", "")
    if _strip_text(name, hub_model(record)) == name:
        return file
    form = metadata.pop("format")
    tensors = load_file(file)
    copy = scratch / f"{len(list(scratch.iterdir()))}.safetensors"
    save_tensors(copy, tensors, form, {**metadata, "model": _strip_text(name, model_name=None)})
    return copy


def strip_folders(value: Json, model_name: str | None) -> Json:
    """Removes the folders of paths in strings, in NAME=PATH, and in lists and dicts of these.

    Args:
        value: a part of a record.
        model_name: the name of a model on the Hub, which is kept; None: there is none. hf:// paths are kept too.

    Returns:
        The stripped value, of the same type.
    """
    if isinstance(value, dict):
        stripped: dict[str, Json] = {}
        for name, part in value.items():
            stripped[_unused_name(_strip_text(name, model_name), stripped)] = strip_folders(part, model_name)
        return stripped
    if isinstance(value, list):
        return [strip_folders(part, model_name) for part in value]
    return _strip_text(value, model_name) if isinstance(value, str) else value


def _strip_text(text: str, model_name: str | None) -> str:
    """Returns the last part of a path or URL, and NAME=LAST_PART of an argument NAME=PATH.

    The name of a model on the Hub and hf:// paths stay as they are: they are public.
    """
    if text == model_name or text.startswith("hf://"):
        return text
    name, separator, path = text.partition("=")
    is_argument = separator and "://" not in name and _last_part(name) == name  # not a path or URL with = in it
    # What follows NAME= is a file and never the model.
    return f"{name}={_strip_text(path, model_name=None)}" if is_argument else _last_part(text)


def _unused_name(name: str, used: Container[str]) -> str:
    """Returns the name, followed by a number if the name is already used."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in used)


def _last_part(path: str) -> str:
    if "://" in path:
        path = path.partition("?")[0]  # the query may hold a key
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
