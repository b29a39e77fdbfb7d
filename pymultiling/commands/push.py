"""The command `push`: from a run's folder to a repository on the Hub."""

from __future__ import annotations

from argparse import Namespace

from pymultiling.hub import push_to_hub


def run(arguments: Namespace) -> None:
    """Puts the folder on the Hub; prints where it is."""
    options = {"private": arguments.private, "revision": arguments.revision, "message": arguments.message}
    print(f"{arguments.folder} is at {push_to_hub(arguments.folder, arguments.name, **options)}")
