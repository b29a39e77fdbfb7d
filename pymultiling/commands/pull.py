"""The command `pull`: from a repository on the Hub to a run's folder."""

from __future__ import annotations

import shutil
from argparse import Namespace

from pymultiling.hub import pull_from_hub
from pymultiling.hub.publishing import published
from pymultiling.results.folders import result_folder


def run(arguments: Namespace) -> None:
    """Copies what `push` put on the Hub, with its run.json, by which a later run knows the folder as a run's."""
    with result_folder(arguments.out) as folder:
        snapshot = pull_from_hub(arguments.name, revision=arguments.revision)
        files = published(snapshot, arguments.name)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / file, folder / file)
    print(f"{len(files)} files of {arguments.name}, commit {snapshot.name}, are in {arguments.out}")
