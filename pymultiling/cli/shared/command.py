"""The description of a command, and the parser that is made from it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn, TypeAlias

from pymultiling.cli.shared.plot_files import add_format
from pymultiling.errors import printable
from pymultiling.runtime.suggestions import did_you_mean

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Group(Enum):
    """The headings of `pymultiling --help`, in the order in which they are printed."""

    BEGIN = "get started"
    FIND = "find neurons"
    MEASURE = "measure what neurons and layers do"
    TRAIN = "train"
    SHARE = "share results"


@dataclass(frozen=True, kw_only=True)
class Command:
    """The description of a command, for --help, run.json and the card of published results.

    Attributes:
        name: the command's name on the command line, and the name of its module.
        group: the heading of `pymultiling --help` under which it is listed.
        summary: what the command does, in one line of --help.
        title: the title of the card of its published results.
        about: one sentence of the card that explains the results to somebody who does not know them.
        papers: {arXiv number: what the command uses of the paper}.
        example: a command line that works where the files that it names exist.
        whole: arguments that are published as they are. They hold texts or names. In all other arguments the folders
            of paths are removed before publishing.
        whole_facts: entries of run.json, written by the command, that are published as they are.
        draws: whether the command writes plots, and has the option --format.
    """

    name: str
    group: Group
    summary: str
    title: str
    about: str
    papers: Mapping[str, str]
    example: str
    whole: tuple[str, ...] = field(default=())
    whole_facts: tuple[str, ...] = field(default=())
    draws: bool = False


class Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments in one line and keeps the line breaks of lists and examples in --help."""

    def __init__(self, **options: Any):  # Any: the options of argparse.ArgumentParser have many types
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Prints the message, with the most similar option or choice, and exits with status 2."""
        self.exit(2, printable(f"{self.prog}: {message}{self._suggestion(message)}; see {self.prog} --help\n"))

    def _suggestion(self, message: str) -> str:
        if (unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", message)) is not None:
            return did_you_mean(unknown[1], self._option_string_actions)
        if (choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)) is not None:
            return did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        return ""


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def add_command(commands: Commands, command: Command, run: Callable[[argparse.Namespace], None]) -> Parser:
    """Adds a command without its own arguments, and returns its parser."""
    epilog = f"example:\n  {command.example}"
    parser = commands.add_parser(command.name, description=command.summary, epilog=epilog)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="run.json of an earlier run, or its folder, whose options are used; options that are given again replace "
        "them, or add to those that may be repeated (default: no options are taken from a run)",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="print warnings and results only, and no progress")
    amount.add_argument("--verbose", action="store_true", help="also print how long each stage takes")
    parser.add_argument("--debug", action="store_true", help="print the traceback when an error ends the command")
    if command.draws:
        add_format(parser)
    parser.set_defaults(run=run, parser=parser, declared=command)
    return parser
