"""The command `push`: publishes the folder of a run on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from pymultiling.cli.shared.command import Command, Commands, Group, add_command

COMMAND = Command(
    name="push",
    group=Group.SHARE,
    summary="publish a run's neuron sets, statistics, tables and plots on the Hugging Face Hub",
    title="Results on the Hub",
    about="What a run wrote, with a card that says what it is.",
    papers={},
    example="pymultiling push found me/language-neurons",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="the folder to publish: what another command wrote into --out"
    )
    parser.add_argument(
        "name", metavar="NAME", help="the repository on the Hub, as OWNER/NAME; it is created if it does not exist"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="make the repository visible to you or your organization only (default: as your settings on the Hub say)",
    )
    parser.add_argument(
        "--revision",
        metavar="REV",
        help="branch to publish to; it is created if it does not exist (default: main)",
    )
    parser.add_argument("--message", metavar="TEXT", help="message of the commit (default: the version of pymultiling)")


def run(arguments: argparse.Namespace) -> None:
    """Publishes the folder, and prints the address of the commit."""
    from pymultiling.hub import push_to_hub

    address = push_to_hub(
        arguments.folder,
        arguments.name,
        private=arguments.private,
        revision=arguments.revision,
        message=arguments.message,
    )
    print(f"{arguments.folder} is at {address}")
