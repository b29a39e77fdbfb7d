"""Completion of commands and options in a shell, which the package shtab writes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Adds the option that prints a script for a shell."""
    parser.add_argument(
        "--print-completion",
        action=_Print,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        choices=SHELLS,
        help="print a script for the shell that completes commands and options, and exit; needs shtab",
    )


class _Print(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        if find_spec("shtab") is None:
            parser.error(f"argument {option_string}: shtab is not installed; run pip install 'pymultiling[completion]'")
        import shtab

        print(shtab.complete(parser, shell=values))
        parser.exit()
