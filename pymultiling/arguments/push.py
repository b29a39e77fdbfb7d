"""The command `push`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.options import command


def add(commands) -> None:
    parser = command(commands, "push", run, "put a run's sets, statistics, tables and plots on the Hugging Face Hub")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what a run wrote into --out")
    parser.add_argument("name", metavar="NAME", help="the model repository, OWNER/NAME; made where there is none")
    parser.add_argument("--private", action="store_true", help="for you alone to see, or your organization")
    parser.add_argument("--revision", metavar="REV", help="a branch, made where there is none (main)")
    parser.add_argument("--message", metavar="TEXT", help="the commit's message")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import push

    push.run(arguments)
