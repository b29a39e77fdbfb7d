"""The command `detect`."""

from __future__ import annotations

import argparse

from pymultiling.cli.argument_types import amount, named, sites
from pymultiling.cli.options import add_documents, add_model, add_pass, command, refuse_twice
from pymultiling.neurons.sites import SITES


def add(commands) -> None:
    parser = command(commands, "detect", run, "find the neurons of every language")
    parser.add_argument(
        "--corpus",
        metavar="LANGUAGE=FILE",
        type=named,
        action="append",
        required=True,
        help="a language's texts: .txt (one a line), .jsonl (field text), both also .gz or .zst, or .parquet (column text); a path, "
        "a URL such as hf://..., or a pattern with *; repeat",
    )
    add_model(parser)
    add_documents(parser)
    add_pass(parser)
    rule = parser.add_argument_group(
        "which neurons are selected: --threshold, or the most important of a layer and site"
    )
    rule.add_argument("--threshold", metavar="E", type=float, help="importance of at least E in every document")
    many = "how many {}, a fraction, or a count such as 100 (0.1)"
    rule.add_argument("--ffn", metavar="K", type=amount, default=argparse.SUPPRESS, help=many.format("FFN neurons"))
    rule.add_argument(
        "--attention", metavar="K", type=amount, default=argparse.SUPPRESS, help=many.format("of each of q, k, v, o")
    )
    share = "share of the documents in which they must be among them (1.0)"
    rule.add_argument("--share", metavar="S", type=float, default=argparse.SUPPRESS, help=share)
    parser.add_argument("--sites", metavar="SITES", type=sites, default=SITES, help="some of ffn,q,k,v,o (all)")
    parser.add_argument(
        "--rope", choices=("pre", "post"), default="pre", help="zero q and k before or after the rotation (%(default)s)"
    )
    parser.add_argument(
        "--score",
        choices=("importance", "released"),
        default="importance",
        help="the paper's, or its published code's (%(default)s)",
    )
    parser.add_argument(
        "--qk",
        choices=("exact", "fast"),
        default="exact",
        help="q and k: every key of every row, or at most 16, an estimate (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import detect

    refuse_twice(arguments, "corpus")
    detect.run(arguments, _rule(arguments))


def _rule(arguments: argparse.Namespace):
    from pymultiling.neurons.selection import Threshold, TopK

    top = {name: getattr(arguments, name) for name in ("ffn", "attention", "share") if hasattr(arguments, name)}
    if arguments.threshold is None:
        try:
            return TopK(**top)
        except ValueError as error:
            arguments.parser.error(str(error))
    if top:
        arguments.parser.error(f"argument --threshold: not allowed with --{next(iter(top))}")
    return Threshold(arguments.threshold)
