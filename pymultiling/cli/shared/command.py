"""What a command says of itself, and the parser that it gets."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn


class Group(Enum):
    """The headings of `pymultiling --help`, in the order of a reader's questions."""

    BEGIN = "begin"
    FIND = "find neurons"
    MEASURE = "measure what neurons and layers do"
    TRAIN = "train"
    SHARE = "share results"


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a command says of itself, in its own file and in run.json.

    Attributes:
        name: what is typed; the name of the command's file.
        group: where --help lists it.
        summary: what it does, in --help.
        title: of the card of its published results.
        about: a sentence about these results, for who has never heard of them.
        papers: {arXiv number: what of it is used}.
        example: a command line that works where the files are that it names.
        whole: options that hold texts or names. They are published as they are; of other values the folders are left out.
        whole_facts: what the command notes in run.json that is published as it is.
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


class Parser(argparse.ArgumentParser):
    """Wrong arguments are one sentence; lists and examples in --help keep their lines."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def add_command(commands, command: Command, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """The parser of a command, to which its `add` adds the arguments."""
    epilog = f"example:\n  {command.example}"
    parser = commands.add_parser(command.name, description=command.summary, epilog=epilog)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, parser=parser, declared=command)
    return parser
