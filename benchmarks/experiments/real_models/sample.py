"""How much is measured: the options that limit the sample."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any


def _option(default: int | tuple[int, ...], description: str) -> Any:
    return field(default=default, metadata={"help": description})


@dataclass(frozen=True)
class Sample:
    """The sizes of the sample. The metadata of each field says what it is."""

    languages: int = _option(6, "languages: English, and those that the model knows best")
    price_lengths: tuple[int, ...] = _option((256, 512, 2048), "prices: tokens of a document")
    rounds: int = _option(3, "prices: how often each run is timed")
    exact_lengths: tuple[int, ...] = _option((30, 200, 512, 700), "exactness: tokens of a document")
    neurons: int = _option(30, "exactness: neurons of a site and layer")
    fast_lengths: tuple[int, ...] = _option((256, 512), "fast: tokens of a document")
    documents: int = _option(12, "fast: documents of all languages together")
    tokens: int = _option(8000, "sets, lape, ternary, mwork: tokens of a language in which neurons are found")
    heldout: int = _option(400, "sets, lape, ternary: held-out tokens of a language in which they are deactivated")
    draws: int = _option(3, "sets, lape, ternary, mwork: random sets for each set")
    lens_tokens: int = _option(500, "lens: tokens of a language")
    items: int = _option(16, "mwork: texts of a language to continue, at least 4")
    mwork_languages: int = _option(2, "mwork: languages beside English")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for every field of `Sample`."""
    for one in fields(Sample):
        text = " ".join(map(str, one.default)) if isinstance(one.default, tuple) else one.default
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=int,
            nargs="+" if isinstance(one.default, tuple) else None,
            default=one.default,
            help=f"{one.metadata['help']} (default: {text})",
        )


def sample_of(options: argparse.Namespace) -> Sample:
    """Returns the sample that the options name."""
    values: dict[str, Any] = {}
    for one in fields(Sample):
        value = getattr(options, one.name)
        values[one.name] = tuple(value) if isinstance(value, list) else value
    return Sample(**values)
