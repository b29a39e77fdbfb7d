"""The command `count`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import named
from pymultiling.cli.options import add_documents, add_model, add_pass, command, refuse_twice


def add(commands) -> None:
    parser = command(commands, "count", run, "count how often every FFN neuron is active for a language")
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        required=True,
        help="a language's texts, as for detect; with --positions response prompts and responses, in fields of these names; "
        "repeat",
    )
    parser.add_argument(
        "--positions",
        choices=("all", "last", "response"),
        default="all",
        help="all tokens, a document's last one, or those of responses (%(default)s)",
    )
    add_model(parser)
    add_documents(parser)
    add_pass(parser)


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import count

    refuse_twice(arguments, "corpus")
    if arguments.positions == "response" and arguments.pack is not None:
        arguments.parser.error("argument --pack: not allowed with --positions response")
    count.run(arguments)
