"""Texts for `repr` that fit on a screen, whatever tensors, tables and texts an object holds.

Imports no heavy packages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import islice

ITEMS = 4  # of a mapping or sequence that are written
LENGTH = 160  # characters of an item


def short_repr(value: object) -> str:
    """Returns the class and the fields of a dataclass or NamedTuple. Use it as `__repr__`."""
    names: tuple[str, ...] = getattr(value, "_fields", ())
    if dataclasses.is_dataclass(value):
        names = tuple(field.name for field in dataclasses.fields(value) if field.repr)
    return f"{type(value).__name__}({', '.join(f'{name}={describe(getattr(value, name))}' for name in names)})"


def describe(value: object) -> str:
    """Describes a field: a tensor or table by its type and shape, of a mapping or sequence the first items."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if hasattr(value, "shape"):  # a table of pandas, which is not imported for this
        return f"{type(value).__name__} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        items = [f"{_cut(repr(key))}: {_item(item)}" for key, item in islice(value.items(), ITEMS)]
        return f"{{{', '.join(items + _rest(len(value)))}}}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [_item(item) for item in value[:ITEMS]] + _rest(len(value))
        return f"[{', '.join(items)}]" if isinstance(value, list) else f"({', '.join(items)})"
    return _item(value)


def _item(value: object) -> str:
    """Describes something inside of a field: a tensor by its type and shape, others by their `repr`, cut."""
    if hasattr(value, "shape"):
        return describe(value)
    if isinstance(value, (list, tuple, Mapping)) and not hasattr(value, "_fields") and len(value) > ITEMS:
        return f"{len(value)} items"
    return _cut(repr(value))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 3]}..."


def _rest(count: int) -> list[str]:
    return [f"{count - ITEMS} more"] if count > ITEMS else []
