"""The command `classify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.argument_types import fraction
from pymultiling.cli.options import command


def add(commands) -> None:
    parser = command(
        commands, "classify", run, "find neurons specific to a language, related to some, and general ones"
    )
    parser.add_argument(
        "--counts",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        required=True,
        help="counts that count wrote, or their folder; repeat",
    )
    parser.add_argument(
        "--before",
        metavar="LANGUAGE=FILE|DIR",
        action="append",
        help="counts of another model, such as the one before alignment, to compare with; repeat",
    )
    parser.add_argument(
        "--method",
        choices=("ternary", "lape"),
        default="ternary",
        help="three kinds of neuron (arXiv 2505.21505), or LAPE (arXiv 2402.16438) (%(default)s)",
    )
    parser.add_argument(
        "--top", metavar="P", type=fraction, default=0.01, help="part of all neurons that is selected (%(default)s)"
    )
    parser.add_argument(
        "--bar",
        metavar="P",
        type=fraction,
        default=0.95,
        help="a neuron is a language's where it is active more often than this part of all are (%(default)s)",
    )
    parser.add_argument(
        "--lambda",
        dest="lam",
        metavar="X",
        type=_lambda,
        default="auto",
        help="weight of the largest probability; auto: the largest with no general neuron (%(default)s)",
    )
    parser.add_argument(
        "--scale",
        choices=("released", "paper"),
        default="released",
        help="of lambda: the published code's, or the paper's (%(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import classify

    if arguments.method == "lape":
        if arguments.before is not None:
            arguments.parser.error("argument --before: not allowed with --method lape")
        if arguments.lam != "auto" or arguments.scale != "released":
            arguments.parser.error("arguments --lambda and --scale: not allowed with --method lape")
    classify.run(arguments)


def _lambda(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None
