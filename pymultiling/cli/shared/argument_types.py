"""Types for argparse arguments. A value of another form ends the command line with a message that says what to give."""

from __future__ import annotations

import argparse
import codecs
import os
from collections.abc import Callable

from pymultiling.neurons.sites import check_sites


def positive_integer(text: str) -> int:
    """Parses a whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def integer_or(word: str, zero_means_it: bool = False) -> Callable[[str], int | str]:
    """Returns a function that parses a whole number of at least 1, or this word, which 0 may mean too."""

    def parse(text: str) -> int | str:
        if text == word or (zero_means_it and text == "0"):
            return word
        try:
            return positive_integer(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, nor {word}") from None

    return parse


def whole_number(text: str) -> int:
    """Parses a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def count_or_fraction(text: str) -> int | float:
    """Parses digits as a count and any other number as a fraction."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a fraction such as 0.1 nor a count such as 100"
        ) from None


def encoding_name(text: str) -> str:
    """Parses the name of an encoding that Python knows."""
    try:
        codecs.lookup(text)
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an encoding that Python knows, such as gb18030") from None
    return text


def site_names(text: str) -> tuple[str, ...]:
    """Parses site names that are separated by commas."""
    try:
        return check_sites(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def name_and_path(text: str) -> tuple[str, str]:
    """Parses NAME=FILE.

    Results are saved in files of this name, so it must be a valid file name. A ~ at the beginning of FILE becomes the
    home folder.
    """
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form NAME=FILE, such as fr=fr.txt")
    if not is_file_name(name):
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used as a file name: give a code such as fr")
    # A shell expands ~ only at the beginning of a word.
    return name, os.path.expanduser(path)  # noqa: PTH111 - Path would change URLs such as hf://...


def code_and_name(text: str) -> tuple[str, str]:
    """Parses CODE=NAME, a language's code and what it is called."""
    code, _, name = text.partition("=")
    if not code or not name:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form CODE=NAME, such as qq=Quenya")
    return code, name


def is_file_name(name: str) -> bool:
    """Returns whether a file can have this name and is then a visible file of the folder that it is written to."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\:") and name.isprintable()


def fraction(text: str) -> float:
    """Parses a number above 0 and below 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and below 1, such as 0.01")
    return value


def positive_number(text: str) -> float:
    """Parses a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, such as 0.001")
    return value


def language_codes(text: str) -> list[str]:
    """Parses different codes that are separated by commas."""
    codes = text.split(",")
    if not all(codes) or len(set(codes)) < len(codes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different codes, such as es,ru,fr")
    return codes
