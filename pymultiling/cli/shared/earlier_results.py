"""Sets and counts that an earlier run wrote, of the arguments NAME=FILE and DIR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pymultiling.cli.shared.argument_types import names_file
from pymultiling.errors import CheckpointError

if TYPE_CHECKING:
    from pymultiling.neurons.activation_statistics import ActivationStatistics
    from pymultiling.neurons.sets import NeuronSet


def read_sets(given: list[str]) -> dict[str, NeuronSet]:
    """The sets of every NAME=FILE and folder; none may be called "none"."""
    from pymultiling.neurons.sets import NeuronSet

    return _read(given, NeuronSet.load, "detect", taken=("none",))


def read_counts(given: list[str]) -> dict[str, ActivationStatistics]:
    """The counts of every NAME=FILE and folder."""
    from pymultiling.neurons.activation_statistics import ActivationStatistics

    return _read(given, ActivationStatistics.load, "count")


def _read(given: list[str], load: Callable, command: str, taken: tuple[str, ...] = ()) -> dict:
    found = {}
    for argument in given:
        for name, file in _named_files(argument, command):
            if name in found or name in taken:
                raise CheckpointError(f"{file}: the name {name!r} is taken already, give another as NAME={file}")
            found[name] = load(file)
    return found


def _named_files(argument: str, command: str) -> list[tuple[str, Path]]:
    from pymultiling.neurons.set_files import files_by_name

    name, found, file = argument.partition("=")
    if found and not Path(argument).is_dir():
        if not names_file(name):
            raise CheckpointError(f"{name!r} cannot name a file: give a code such as fr in {argument}")
        return [(name, Path(file).expanduser())]
    files = files_by_name(argument)
    if not files:
        raise CheckpointError(
            f"{argument}: looked for NAME=FILE, or a folder of .safetensors files that {command} wrote"
        )
    return list(files.items())
