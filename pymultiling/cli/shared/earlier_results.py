"""Reads neuron sets, statistics and counts of earlier runs. The arguments are NAME=FILE, FOLDER or NAME=FOLDER."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pymultiling.cli.shared.argument_types import is_file_name
from pymultiling.data.languages import find_language
from pymultiling.errors import CheckpointError
from pymultiling.results.run import RECORD_FILE

if TYPE_CHECKING:
    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.importance_statistics import NeuronStatistics
    from pymultiling.neurons.sets import NeuronSet

Contents = TypeVar("Contents")

# Folders of a run that are read if the folder of the whole run is given, the first that exists.
SET_FOLDERS, STATISTICS_FOLDERS, COUNT_FOLDERS = ("specific", "neurons"), ("statistics",), ("counts",)

_logger = logging.getLogger(__name__)


def read_sets(arguments: list[str]) -> dict[str, NeuronSet]:
    """Returns {name: neuron set} of all arguments. No set may be called "none", which names a row of the tables."""
    from pymultiling.neurons.sets import NeuronSet

    return _read_files(arguments, NeuronSet.load, "detect", SET_FOLDERS, reserved_names=("none",))


def find_sets(arguments: list[str]) -> dict[str, Path]:
    """Returns {name: file} of the neuron sets of all arguments, which may also be plain paths of files."""
    named = [f"{Path(word).stem}={word}" if Path(word).is_file() else word for word in arguments]
    return _find_files(named, "detect", SET_FOLDERS)


def statistics_of_set(file: Path) -> NeuronStatistics | None:
    """Returns the statistics that a set of a run of `detect` was selected from; None if they are not beside the set."""
    from pymultiling.neurons.importance_statistics import NeuronStatistics

    statistics = file.resolve().parent.parent / STATISTICS_FOLDERS[0] / file.name
    return NeuronStatistics.load(statistics) if statistics.is_file() else None


def read_set(argument: str) -> NeuronSet:
    """Returns the one set that an argument names: FILE, a folder with a single set, or NAME=FOLDER.

    Raises:
        CheckpointError: there is no such set, the folder has several, or the file is not a set of neurons.
    """
    from pymultiling.neurons.sets import NeuronSet

    _, separator, folder = argument.partition("=")
    if not Path(argument).is_dir() and not (separator and Path(folder).expanduser().is_dir()):
        return NeuronSet.load(argument)
    files = _files_by_name(argument, "detect", SET_FOLDERS)
    if len(files) > 1:
        name = next(iter(files))
        raise CheckpointError(
            f"{argument} has the sets of {', '.join(files)}, and one is needed: give it as {name}={argument}"
        )
    (file,) = files.values()
    return NeuronSet.load(file)


def read_counts(arguments: list[str]) -> dict[str, ActivationStatistics]:
    """Returns {language: counts} of all arguments.

    Raises:
        CheckpointError: a file cannot be read, or counts were made at different positions, or only some of them with
            a chat template.
    """
    from pymultiling.neurons.activation_statistics import ActivationStatistics

    files = _find_files(arguments, "count", COUNT_FOLDERS)
    counts = {name: ActivationStatistics.load(file) for name, file in files.items()}
    _refuse_different_counts(files)
    return counts


def _refuse_different_counts(files: dict[str, Path]) -> None:
    from pymultiling.runtime.storage import read_metadata

    for fact, by_default in (("positions", None), ("texts", "texts as they are")):
        values = {name: read_metadata(file).get(fact, by_default) for name, file in files.items()}
        known = [(name, value) for name, value in values.items() if value is not None]
        for name, value in known:
            if value != known[0][1]:
                raise CheckpointError(
                    f"the counts of {known[0][0]} and {name} are of different {fact} ({known[0][1]}; {value}): count "
                    "both with the same options"
                )


def read_statistics(folder: str) -> dict[str, NeuronStatistics]:
    """Returns {language: statistics} of the folder of a run of `detect`, or of its folder `statistics`.

    Raises:
        CheckpointError: they are of different models or sites.
    """
    from pymultiling.neurons.importance_statistics import NeuronStatistics

    statistics = _read_files([folder], NeuronStatistics.load, "detect", STATISTICS_FOLDERS)
    shapes = {name: {site: tuple(x.shape) for site, x in values.sum.items()} for name, values in statistics.items()}
    first = next(iter(shapes))
    for name in shapes:
        if shapes[name] != shapes[first]:
            raise CheckpointError(
                f"the statistics of {first} and {name} in {folder} are of different models or sites: give the results "
                "of one run"
            )
    return statistics


def run_folder(folder: str) -> Path:
    """Returns the folder of a run of `detect`, which is above the folder `statistics`."""
    place = Path(folder).resolve()
    return place.parent if place.name in STATISTICS_FOLDERS else place


def read_earlier_record(folder: str) -> dict[str, Any]:
    """Returns run.json of the folder of a run of `detect`, or of its folder `statistics`; {} if there is none."""
    from pymultiling.results.record_schema import read_run_record

    file = run_folder(folder) / RECORD_FILE
    return read_run_record(file) if file.is_file() else {}


def _read_files(
    arguments: list[str],
    load: Callable[[Path], Contents],
    command: str,
    folders: tuple[str, ...],
    reserved_names: tuple[str, ...] = (),
) -> dict[str, Contents]:
    files = _find_files(arguments, command, folders, reserved_names)
    return {name: load(file) for name, file in files.items()}


def _find_files(
    arguments: list[str], command: str, folders: tuple[str, ...], reserved_names: tuple[str, ...] = ()
) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for argument in arguments:
        for name, file in _files_by_name(argument, command, folders).items():
            if name in files or name in reserved_names:
                raise CheckpointError(f"{file}: the name {name!r} is already in use: give another one as NAME={file}")
            files[name] = file
    return files


def _files_by_name(argument: str, command: str, folders: tuple[str, ...]) -> dict[str, Path]:
    name, separator, file = argument.partition("=")
    if not separator or Path(argument).is_dir():
        return _files_in(Path(argument), command, folders)
    if not is_file_name(name):
        raise CheckpointError(f"{name!r} cannot be used as a file name: give a code such as fr in {argument}")
    path = Path(file).expanduser()
    if not path.is_dir():
        return {name: path}
    files = _files_in(path, command, folders)
    return {name: files[find_language(name, files, file)]}


def _files_in(folder: Path, command: str, parts: tuple[str, ...]) -> dict[str, Path]:
    """Returns {name: file} of a folder of files, or of the first of the parts of a whole run's folder that has any."""
    from pymultiling.neurons.set_files import files_by_name

    files = files_by_name(folder)
    for part in parts:
        if not files and (files := files_by_name(folder / part)):
            _logger.info("of %s the files in %s are read", folder, folder / part)
    if not files:
        raise CheckpointError(
            f"{folder} is neither NAME=FILE nor a folder with .safetensors files: give files that {command} wrote"
        )
    return files
