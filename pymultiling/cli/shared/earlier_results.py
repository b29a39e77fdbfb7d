"""Reads neuron sets and counts that earlier runs wrote. The arguments are NAME=FILE or FOLDER."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pymultiling.cli.shared.argument_types import is_file_name
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
    from pymultiling.neurons.set_files import files_by_name

    name, separator, file = argument.partition("=")
    if separator and not Path(argument).is_dir():
        if not is_file_name(name):
            raise CheckpointError(f"{name!r} cannot be used as a file name: give a code such as fr in {argument}")
        return {name: Path(file).expanduser()}
    files = files_by_name(argument)
    for folder in FOLDERS[command]:
        if not files and (files := files_by_name(Path(argument) / folder)):
            _logger.info("of %s the files in %s are read", argument, Path(argument) / folder)
    if not files:
        raise CheckpointError(
            f"{argument} is neither NAME=FILE nor a folder with .safetensors files: give files that {command} wrote"
        )
    return files
