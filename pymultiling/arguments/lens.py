"""The command `lens`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import codes, count, named
from pymultiling.cli.options import add_documents, add_model, command, refuse_twice


def add(commands) -> None:
    what = "say which languages each layer decodes to (arXiv 2402.18815, figure 1)"
    parser = command(commands, "lens", run, what)
    parser.add_argument(
        "--texts", metavar="NAME=FILE", type=named, action="append", required=True, help="texts, as for detect; repeat"
    )
    parser.add_argument(
        "--languages",
        metavar="A,B,C",
        type=codes,
        help="ISO 639-1 codes to tell apart; a language left out counts as the most similar of these (all that lingua knows)",
    )
    parser.add_argument("--top", metavar="N", type=count, default=10, help="tokens of each position (%(default)s)")
    add_model(parser)
    add_documents(parser)


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import lens

    refuse_twice(arguments, "texts")
    lens.run(arguments)
