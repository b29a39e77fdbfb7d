"""The command `pull`: from a repository on the Hub to a run's folder."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pymultiling.cli.shared.command import Command, Group, add_command
from pymultiling.results.folders import result_folder

COMMAND = Command(
    name="pull",
    group=Group.SHARE,
    summary="fetch what push put on the Hugging Face Hub",
    title="Results from the Hub",
    about="What somebody's run wrote, as it was published.",
    papers={},
    example="pymultiling pull me/language-neurons --out pulled",
)


def add(commands) -> None:
    parser = add_command(commands, COMMAND, run)
    parser.add_argument("name", metavar="NAME", help="the model repository, OWNER/NAME")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for the files; an earlier run's are replaced"
    )
    parser.add_argument("--revision", metavar="REV", help="a branch, a tag or a commit (main)")


def run(arguments: argparse.Namespace) -> None:
    """Copies what `push` put on the Hub, with its run.json, by which a later run knows the folder as a run's."""
    from pymultiling.hub import pull_from_hub
    from pymultiling.hub.publishing import published_files

    with result_folder(arguments.out) as folder:
        snapshot = pull_from_hub(arguments.name, revision=arguments.revision)
        files = published_files(snapshot, arguments.name)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / file, folder / file)
    print(f"{len(files)} files of {arguments.name}, commit {snapshot.name}, are in {arguments.out}")
