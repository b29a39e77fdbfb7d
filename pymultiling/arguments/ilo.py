"""The command `ilo`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import codes, count, named
from pymultiling.cli.options import add_max_length, add_model, command, refuse_twice


def add(commands) -> None:
    parser = command(
        commands, "ilo", run, "measure how far languages share one space, layer by layer (arXiv 2503.11280)"
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--parallel",
        metavar="FILE",
        help="translations, .tsv or .tsv.gz: a line of codes (id is none), then a line for each sentence; an empty cell is missing",
    )
    given.add_argument(
        "--sentences",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        help="a language's sentences, one a line, an empty one is missing; files of as many lines count as translations; repeat",
    )
    parser.add_argument("--languages", metavar="A,B,C", type=codes, help="of --parallel; all if not given")
    parser.add_argument("--limit", metavar="N", type=count, help="the first N sentences of each language")
    parser.add_argument("--k", metavar="K", type=count, default=5, help="neighbours of a sentence (%(default)s)")
    parser.add_argument(
        "--tau", metavar="N", type=count, default=3, help="other languages among them that make a bridge (%(default)s)"
    )
    parser.add_argument(
        "--metric", choices=("cosine", "euclidean"), default="cosine", help="what makes sentences near (%(default)s)"
    )
    add_model(parser)
    add_max_length(parser, "sentences")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import ilo

    refuse_twice(arguments, "sentences")
    if arguments.sentences and arguments.languages:
        arguments.parser.error("argument --languages: not allowed with --sentences")
    ilo.run(arguments)
