"""The command `ablate`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import named
from pymultiling.cli.options import add_documents, add_model, command, refuse_twice


def add(commands) -> None:
    parser = command(commands, "ablate", run, "measure every language's perplexity with each set of neurons off")
    parser.add_argument(
        "--neurons",
        metavar="NAME=FILE|DIR",
        action="append",
        required=True,
        help="a set that detect wrote, or a folder of them, named by file; repeat",
    )
    parser.add_argument(
        "--texts", metavar="LANGUAGE=FILE", type=named, action="append", required=True, help="held-out texts; repeat"
    )
    parser.add_argument("--random", metavar="SEED", type=int, help="measure as many random neurons for every set too")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--scale",
        metavar="S",
        type=float,
        default=0.0,
        help="multiply the neurons by S instead of zero; 2 doubles them",
    )
    what.add_argument("--mean", metavar="FILE", help="set the neurons to their means over these texts instead of zero")
    add_model(parser)
    add_documents(parser)


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import ablate

    refuse_twice(arguments, "texts")
    ablate.run(arguments)
