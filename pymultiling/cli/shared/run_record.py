"""A command's run.json: what was typed, what the command says of itself, and the files that were read."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from pymultiling.cli.shared.command import Command
from pymultiling.cli.shared.typed_again import words_by_argument
from pymultiling.errors import CheckpointError
from pymultiling.results.folders import check_output_folder
from pymultiling.results.run import Run, file_hash

APART = ("command", "run", "parser", "declared", "debug")  # of what is parsed: no arguments of the command


def record_of(arguments: Namespace) -> Run:
    """The run's record; CheckpointError where the folder of its results would replace what the run reads, or its state."""
    taken = {name: value for name, value in vars(arguments).items() if name not in APART}
    out = arguments.out.resolve()
    state = getattr(arguments, "checkpoint", None)
    for path in _paths(value for name, value in taken.items() if name != "out"):
        if (path.exists() or path == state) and path.resolve().is_relative_to(out):
            raise CheckpointError(
                f"--out {arguments.out} is to hold results alone, and {path} is in it: give --out another folder"
            )
    if state is not None and out.is_relative_to(state.resolve()):
        raise CheckpointError(f"--out {arguments.out} is inside --checkpoint {state}: give --out another folder")
    typed = words_by_argument(arguments.parser, taken)
    return Run(arguments.command, taken, {**declarations(arguments.declared), "command_line": typed})


def record_of_pass(arguments: Namespace, files: dict[str, str]) -> Run:
    """The record of a command that several processes may run, the first of which hashes the files that are read.

    CheckpointError also where the folder of its results is taken.
    """
    from pymultiling.runtime.processes import is_first, join_processes

    record = record_of(arguments)
    join_processes()
    if is_first():
        check_output_folder(arguments.out)
        with record.stage("hash"):
            record.note(corpora=hashes_of_files(files))
    return record


def declarations(command: Command) -> dict[str, object]:
    """What run.json has of a command's own words, for who publishes the results."""
    return {
        "card": {"title": command.title, "about": command.about, "papers": dict(command.papers)},
        "published_whole": {"arguments": list(command.whole), "facts": list(command.whole_facts)},
    }


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Whatever among arguments may be a path: PATH, NAME=PATH, and lists of these."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif isinstance(value, (str, Path)) and str(value):
            yield Path(value)
            yield Path(str(value).partition("=")[2] or value)


def hashes(corpora: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: {"file": path, "sha256": file_hash(path)} for name, path in corpora.items()}


def hashes_of_files(corpora: dict[str, str]) -> dict[str, dict[str, object]]:
    """As `hashes`, of each file where a pattern names several; of remote ones, their size and both ends."""
    from pymultiling.data.file_shards import file_shards

    found: dict[str, dict[str, object]] = {}
    for name, path in corpora.items():
        shards = file_shards(path)
        if "://" in path:
            found[name] = {"file": path, "fingerprints": {shard.name: shard.fingerprint() for shard in shards}}
        elif len(shards) == 1:
            found[name] = {"file": path, "sha256": file_hash(shards[0].name)}
        else:
            found[name] = {"file": path, "files": {shard.name: file_hash(shard.name) for shard in shards}}
    return found
