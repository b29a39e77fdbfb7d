"""Kinds of argument; what is none of them ends the command line with a sentence."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from pymultiling.neurons.sites import check_sites


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of at least 1")
    return int(text)


def whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a count")
    return int(text)


def amount(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a fraction such as 0.1 nor a count such as 100"
        ) from None


def sites(text: str) -> tuple[str, ...]:
    try:
        return check_sites(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def named(text: str) -> tuple[str, str]:
    """NAME=FILE; the name is to name a file too."""
    name, found, path = text.partition("=")
    if not found or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE")
    if not names_file(name):
        raise argparse.ArgumentTypeError(f"{name!r} cannot name a file: give a code such as fr")
    return name, os.path.expanduser(path)  # a shell expands ~ only at the beginning


def names_file(name: str) -> bool:
    """Whether a file can be called so, and is in the folder that it is put into."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\:") and name.isprintable()


def fraction(text: str) -> float:
    """Between 0 and 1, both left out."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction such as 0.01")
    return value


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 such as 0.001")
    return value


def codes(text: str) -> list[str]:
    """a,b,c."""
    found = text.split(",")
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different codes such as es,ru,fr")
    return found


def as_typed(value: object, kind: Callable | None) -> str:
    """A value as it is typed, for an argument of this type."""
    if isinstance(value, (list, tuple)):
        return ("=" if kind is named else ",").join(value)
    return str(value)
