"""The command `pull`: downloads results that `push` published on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pymultiling.cli.shared.command import Command, Commands, Group, add_command
from pymultiling.results.folders import result_folder

COMMAND = Command(
    name="pull",
    group=Group.SHARE,
    summary="download results that push published on the Hugging Face Hub",
    title="Results from the Hub",
    about="What somebody's run wrote, as it was published.",
    papers={},
    example="pymultiling pull me/language-neurons --out pulled",
)


def add(commands: Commands) -> None:
    """Adds the command and its arguments."""
    parser = add_command(commands, COMMAND, run)
    parser.add_argument("name", metavar="NAME", help="the repository on the Hub, as OWNER/NAME")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder for the files; it is created, and the results of an earlier run in it are replaced",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository (default: main)")


def run(arguments: argparse.Namespace) -> None:
    """Downloads the published files. run.json is among them, so that later runs recognise a folder of results."""
    from pymultiling.hub import pull_from_hub
    from pymultiling.hub.publishing import published_files

    with result_folder(arguments.out) as folder:
        snapshot = pull_from_hub(arguments.name, revision=arguments.revision)
        files = published_files(snapshot, arguments.name)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / file, folder / file)
    print(f"{len(files)} files of {arguments.name}, commit {snapshot.name}, are in {arguments.out}")
