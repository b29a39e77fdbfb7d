"""What run.json must hold, and its reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from pymultiling.errors import CheckpointError
from pymultiling.runtime.schemas import Schema, SchemaError, parse_json


def _stays_inside(name: str) -> str:
    """Returns the name of a file. Raises ValueError if it leaves the folder of the record, or cannot be printed."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or set(name) & set("\\:") or not name.isprintable():
        raise ValueError("be the relative path of a file in the same folder")
    return name


FileName = Annotated[str, AfterValidator(_stays_inside)]


class CardFields(Schema):
    """What the card of published results says about the command."""

    title: str
    about: str
    papers: dict[str, str]


class PathFreeFields(Schema):
    """Names of arguments and of parts of the record that hold no paths."""

    arguments: list[str]
    facts: list[str]


class ModelFields(Schema):
    """The model that was measured."""

    name: str
    revision: str | None = None
    type: str
    dtype: str
    loader: Annotated[str, StringConstraints(pattern=r"^AutoModel[A-Za-z0-9]*$")] | None = None


class RecordSchema(Schema):
    """The fields of run.json that are read again. Earlier versions lack some of them."""

    files: list[FileName]
    versions: dict[str, str] | None = None
    command: str | None = None
    arguments: dict[str, Any] | None = None
    command_line: dict[str, list[str]] | None = None
    card: CardFields | None = None
    published_whole: PathFreeFields | None = None
    started: str | None = None
    seed: int | None = None
    rule: str | None = None
    device: str | None = None
    model: ModelFields | None = None
    corpora: dict[str, dict[str, str | dict[str, str]]] | None = None


def read_run_record(file: Path) -> dict[str, Any]:
    """Reads a run.json.

    Returns:
        The record, with all its fields.

    Raises:
        CheckpointError: it is not the record of a run.
        OSError: it cannot be read.
    """
    try:
        text = file.read_text("utf-8")
        parse_json(RecordSchema, text)
    except UnicodeDecodeError:
        raise CheckpointError(f"{file} is damaged: it is not UTF-8; run the command again") from None
    except SchemaError as error:
        raise CheckpointError(f"{file} is damaged or not the record of a run: {error}; run the command again") from None
    record: dict[str, Any] = json.loads(text)
    return record
