"""Starts the record of a command's run, run.json: the command line, the command's description and the input files."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path

from pymultiling.cli.shared.command import Command
from pymultiling.cli.shared.default_checkpoint import keep_checkpoint_in_results
from pymultiling.cli.shared.options import texts_of
from pymultiling.cli.shared.recorded_command_line import words_by_argument
from pymultiling.cli.shared.stdin import STDIN
from pymultiling.errors import CheckpointError, CorpusError
from pymultiling.results.folders import check_output_folder
from pymultiling.results.run import Run, file_hash

NOT_ARGUMENTS = (
    "command",
    "run",
    "parser",
    "declared",
    "config",
    "quiet",
    "verbose",
    "debug",
)  # parsed values that run.json does not list


def start_record(arguments: Namespace) -> Run:
    """Returns the record of a run that begins now.

    Raises:
        CheckpointError: writing the results to --out would replace files that the run reads, or its checkpoint.
    """
    values = {name: value for name, value in vars(arguments).items() if name not in NOT_ARGUMENTS}
    out = arguments.out.resolve()
    checkpoint = getattr(arguments, "checkpoint", None)
    for path in _possible_paths(value for name, value in values.items() if name not in ("out", "field")):
        if (path.exists() or path == checkpoint) and path.resolve().is_relative_to(out):
            raise CheckpointError(
                f"--out {arguments.out} contains {path}, which this command uses and which its results would replace: "
                "give --out another folder"
            )
    if checkpoint is not None and out.is_relative_to(checkpoint.resolve()):
        raise CheckpointError(f"--out {arguments.out} is inside --checkpoint {checkpoint}: give --out another folder")
    command_line = words_by_argument(arguments.parser, values)
    return Run(arguments.command, values, {**command_description(arguments.declared), "command_line": command_line})


def start_pass_record(arguments: Namespace, files: dict[str, str]) -> Run:
    """Returns the record of a command that several processes may run. The first process hashes the input files.

    The command's checkpoint is in --out from here on, unless --checkpoint names another folder. It is not recorded.

    Args:
        arguments: the parsed command line.
        files: {name: file} of the texts that are read. Files of "mean" may be those of another name.

    Raises:
        CheckpointError: as in `start_record`, or --out holds other files than results.
        CorpusError: a file cannot be read, its first record has no text, or two names have the same texts.
    """
    check_first_texts(arguments, files)
    from pymultiling.runtime.processes import is_first_process, join_processes

    record = start_record(arguments)
    keep_checkpoint_in_results(arguments)
    join_processes()
    if is_first_process():
        check_output_folder(arguments.out)
        with record.stage("hash"):
            hashes = hash_corpora(files)
            _refuse_same_texts(hashes)
            record.note(corpora=hashes)
    return record


def check_first_texts(arguments: Namespace, files: dict[str, str]) -> None:
    """Reads the first record of every file {name: path}.

    Raises:
        CorpusError: a file cannot be read, or its first record has no text.
    """
    from pymultiling.data.corpora import PAIR, TEXT
    from pymultiling.data.shards import check_first_record, shards_of

    for name, texts in texts_of(arguments, files).items():
        if files[name] != STDIN:
            fields = PAIR if getattr(arguments, "positions", None) == "response" and name != "mean" else TEXT
            check_first_record(shards_of(texts), fields)


def _refuse_same_texts(hashes: dict[str, dict[str, object]]) -> None:
    names: dict[str, str] = {}
    for name, entry in hashes.items():
        contents = json.dumps({key: value for key, value in entry.items() if key != "file"}, sort_keys=True)
        other = names.setdefault(contents, name)
        if other != name and "mean" not in (other, name) and len(entry) > 1:
            raise CorpusError(
                f"{other} and {name} have the same texts, {entry['file']}: give each language a file of its own"
            )


def command_description(command: Command) -> dict[str, object]:
    """Returns the part of run.json that describes the command, for publishing its results."""
    return {
        "card": {"title": command.title, "about": command.about, "papers": dict(command.papers)},
        "published_whole": {"arguments": list(command.whole), "facts": list(command.whole_facts)},
    }


def _possible_paths(values: Iterable[object]) -> Iterator[Path]:
    """Yields what may be a path in the values of arguments: a whole value, what follows = in it, and items of lists."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _possible_paths(value)
        elif isinstance(value, (str, Path)) and str(value):
            yield Path(value)
            yield Path(str(value).partition("=")[2] or value)


def hash_corpora(files: dict[str, str]) -> dict[str, dict[str, object]]:
    """Returns {name: path and hashes} of files with texts, which may be patterns and URLs.

    Nothing is said of texts from stdin. A pattern that matches several files gets the SHA-256 of each. Remote files get
    fingerprints of their size, their beginning and their end.
    """
    from pymultiling.data.stored_files import stored_files

    hashes: dict[str, dict[str, object]] = {}
    for name, path in files.items():
        if path == STDIN:
            hashes[name] = {"file": path}
            continue
        stored = stored_files(path)
        if "://" in path:
            hashes[name] = {"file": path, "fingerprints": {file.name: file.fingerprint() for file in stored}}
        elif len(stored) == 1:
            hashes[name] = {"file": path, "sha256": file_hash(stored[0].name)}
        else:
            hashes[name] = {"file": path, "files": {file.name: file_hash(file.name) for file in stored}}
    return hashes
