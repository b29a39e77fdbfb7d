"""The command `doctor`."""

from __future__ import annotations

import argparse

from pymultiling.cli.options import add_families, command


def add(commands) -> None:
    parser = command(commands, "doctor", run, "say what can run here, and whether a model can be measured")
    parser.add_argument(
        "--model",
        metavar="DIR|NAME",
        help="a model to look at, and to check: a few neurons are set to zero, on the CPU in float32",
    )
    parser.add_argument("--revision", metavar="REV", help="its revision, on the Hub")
    add_families(parser)
    parser.add_argument("--no-check", action="store_true", help="only look at the model: its weights are not loaded")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling import doctor

    doctor.run(arguments.model, arguments.revision, check=not arguments.no_check)
