"""The command `doctor`."""

from __future__ import annotations

import argparse

from pymultiling.arguments.shared import command


def add(commands) -> None:
    parser = command(commands, "doctor", run, "say what can run here, and whether a model can be measured")
    parser.add_argument("--model", metavar="DIR|NAME", help="a model to look at; its weights are not loaded")
    parser.add_argument("--revision", metavar="REV", help="its revision, on the Hub")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling import doctor

    doctor.run(arguments.model, arguments.revision)
