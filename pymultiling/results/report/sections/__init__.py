"""The sections of the report, a file for each kind of results.

A module of this package has SECTION. It is found by its file: a new kind of results only adds one.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from pymultiling.results.report.figures import Figure
from pymultiling.results.report.run_folder import Results


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        order: where it stands; low numbers come first.
        title: the heading.
        about: what the section answers, in one or two sentences.
        commands: the commands whose results it shows.
        figures: makes the figures of one run.
        changes: makes figures of what changed between two runs, or none if they cannot be compared; None: the values
            side by side say it.
    """

    order: int
    title: str
    about: str
    commands: tuple[str, ...]
    figures: Callable[[Results], list[Figure]]
    changes: Callable[[Results, Results], list[Figure]] | None = None


def sections() -> list[Section]:
    """Returns all sections in the order of the page."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found: list[Section] = [module.SECTION for module in modules]
    return sorted(found, key=lambda section: section.order)


def sections_of(results: Sequence[Results]) -> list[tuple[Section, list[Results]]]:
    """Returns the sections that some of the results have, with these results."""
    pairs = [(section, [run for run in results if run.command in section.commands]) for section in sections()]
    return [(section, runs) for section, runs in pairs if runs]
