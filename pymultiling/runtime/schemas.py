"""Declared schemas of JSON files and records, as pydantic models, and their errors in plain English."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pymultiling.errors import printable

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Schema(BaseModel):
    """The fields of a JSON object. Values are not converted: a string of digits is no number. Other fields may follow.

    A subclass declares the fields as annotations.
    """

    model_config = ConfigDict(strict=True, frozen=True)


S = TypeVar("S", bound=Schema)


class SchemaError(ValueError):
    """A file or a record does not agree with its schema. The message is a phrase without the file's name."""


def parse_json(schema: type[S], text: str | bytes) -> S:
    """Reads JSON.

    Raises:
        SchemaError: it is not JSON, or does not agree with the schema.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        raise SchemaError(_describe(error)) from None


def check_record(schema: type[S], record: object) -> S:
    """Checks an object that was read from JSON.

    Raises:
        SchemaError: it does not agree with the schema.
    """
    try:
        return schema.model_validate(record)
    except ValidationError as error:
        raise SchemaError(_describe(error)) from None


def _describe(error: ValidationError) -> str:
    """Describes the first fault: where it is, what is expected, and what is there."""
    fault = error.errors(include_url=False, include_context=False)[0]
    kind, message = fault["type"], fault["msg"]
    if kind == "json_invalid":
        return f"it is not JSON ({message.removeprefix('Invalid JSON: ')})"
    place = ".".join(str(part) for part in fault["loc"])
    if kind == "missing":
        return f"it lacks {place!r}"
    value = repr(fault["input"])
    value = value if len(value) <= 60 else f"{value[:60]}..."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        expected = "be an object with named fields"
    else:
        expected = message.removeprefix("Input should ").removeprefix("Value error, ")
    return printable(f"{f'{place!r} must' if place else 'it must'} {expected}, got {value}")
