"""The command `demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling import demo
from pymultiling.cli.argument_types import count
from pymultiling.cli.options import command


def add(commands) -> None:
    parser = command(
        commands, "demo", run, "find and switch off the neurons of eight languages in the small model of the package"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("demo"), help="folder for the results (%(default)s)"
    )
    parser.add_argument(
        "--documents",
        metavar="N",
        type=count,
        default=demo.DOCUMENTS,
        help="documents a language to detect with (%(default)s)",
    )
    parser.add_argument(
        "--heldout",
        metavar="N",
        type=count,
        default=demo.HELDOUT,
        help="held-out documents a language to measure with (%(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=demo.SEED, help="seed of the random sets (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    demo.run(arguments.out, arguments.documents, arguments.heldout, arguments.seed)
