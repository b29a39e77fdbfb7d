"""The command `pull`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.options import command


def add(commands) -> None:
    parser = command(commands, "pull", run, "fetch what push put on the Hugging Face Hub")
    parser.add_argument("name", metavar="NAME", help="the model repository, OWNER/NAME")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for the files; an earlier run's are replaced"
    )
    parser.add_argument("--revision", metavar="REV", help="a branch, a tag or a commit (main)")


def run(arguments: argparse.Namespace) -> None:
    from pymultiling.commands import pull

    pull.run(arguments)
