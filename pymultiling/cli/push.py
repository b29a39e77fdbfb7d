"""The command `push`: from a run's folder to a repository on the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.shared.command import Command, Group, add_command

COMMAND = Command(
    name="push",
    group=Group.SHARE,
    summary="put a run's sets, statistics, tables and plots on the Hugging Face Hub",
    title="Results on the Hub",
    about="What a run wrote, with a card that says what it is.",
    papers={},
    example="pymultiling push found me/language-neurons",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what a run wrote into --out")
    parser.add_argument("name", metavar="NAME", help="the model repository, OWNER/NAME; made where there is none")
    parser.add_argument("--private", action="store_true", help="for you alone to see, or your organization")
    parser.add_argument("--revision", metavar="REV", help="a branch, made where there is none (main)")
    parser.add_argument("--message", metavar="TEXT", help="the commit's message")


def run(arguments: argparse.Namespace) -> None:
    """Puts the folder on the Hub; prints where it is."""
    from pymultiling.hub import push_to_hub

    options = {"private": arguments.private, "revision": arguments.revision, "message": arguments.message}
    print(f"{arguments.folder} is at {push_to_hub(arguments.folder, arguments.name, **options)}")
