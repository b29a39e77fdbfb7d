"""Reads neuron sets and counts that earlier runs wrote. The arguments are NAME=FILE, FOLDER or NAME=FOLDER."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pymultiling.cli.shared.argument_types import is_file_name
from pymultiling.data.languages import find_language
from pymultiling.errors import CheckpointError

if TYPE_CHECKING:
    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.sets import NeuronSet

Contents = TypeVar("Contents")

# Folders of a run that are read if the folder of the whole run is given: {command: folders, the first that exists}.
FOLDERS = {"detect": ("specific", "neurons"), "count": ("counts",)}

_logger = logging.getLogger(__name__)


def read_sets(arguments: list[str]) -> dict[str, NeuronSet]:
    """Returns {name: neuron set} of all arguments. No set may be called "none", which names a row of the tables."""
    from pymultiling.neurons.sets import NeuronSet

    return _read_files(arguments, NeuronSet.load, "detect", reserved_names=("none",))


def read_set(argument: str) -> NeuronSet:
    """Returns the one set that an argument names: FILE, a folder with a single set, or NAME=FOLDER.

    Raises:
        CheckpointError: there is no such set, the folder has several, or the file is not a set of neurons.
    """
    from pymultiling.neurons.sets import NeuronSet

    _, separator, folder = argument.partition("=")
    if not Path(argument).is_dir() and not (separator and Path(folder).expanduser().is_dir()):
        return NeuronSet.load(argument)
    files = _files_by_name(argument, "detect")
    if len(files) > 1:
        name = next(iter(files))
        raise CheckpointError(
            f"{argument} has the sets of {', '.join(files)}, and one is needed: give it as {name}={argument}"
        )
    (file,) = files.values()
    return NeuronSet.load(file)


def read_counts(arguments: list[str]) -> dict[str, ActivationStatistics]:
    """Returns {language: counts} of all arguments."""
    from pymultiling.neurons.activation_statistics import ActivationStatistics

    return _read_files(arguments, ActivationStatistics.load, "count")


def _read_files(
    arguments: list[str], load: Callable[[Path], Contents], command: str, reserved_names: tuple[str, ...] = ()
) -> dict[str, Contents]:
    contents: dict[str, Contents] = {}
    for argument in arguments:
        for name, file in _files_by_name(argument, command).items():
            if name in contents or name in reserved_names:
                raise CheckpointError(f"{file}: the name {name!r} is already in use: give another one as NAME={file}")
            contents[name] = load(file)
    return contents


def _files_by_name(argument: str, command: str) -> dict[str, Path]:
    name, separator, file = argument.partition("=")
    if not separator or Path(argument).is_dir():
        return _files_in(Path(argument), command)
    if not is_file_name(name):
        raise CheckpointError(f"{name!r} cannot be used as a file name: give a code such as fr in {argument}")
    path = Path(file).expanduser()
    if not path.is_dir():
        return {name: path}
    files = _files_in(path, command)
    return {name: files[find_language(name, files, file)]}


def _files_in(folder: Path, command: str) -> dict[str, Path]:
    """Returns {name: file} of a folder of files, or of the folder of a whole run."""
    from pymultiling.neurons.set_files import files_by_name

    files = files_by_name(folder)
    for part in FOLDERS[command]:
        if not files and (files := files_by_name(folder / part)):
            _logger.info("of %s the files in %s are read", folder, folder / part)
    if not files:
        raise CheckpointError(
            f"{folder} is neither NAME=FILE nor a folder with .safetensors files: give files that {command} wrote"
        )
    return files
